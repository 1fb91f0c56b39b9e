"""Data sets: a reader a file, and what all of them give, `Data`."""
