"""convdsl: one page of text becomes a convolutional network that trains."""

__version__ = "0.1.0"
