"""`.cnn` text to the abstract syntax tree."""
