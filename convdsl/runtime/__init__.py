"""What runs: the support code generated files carry, and loading them."""
