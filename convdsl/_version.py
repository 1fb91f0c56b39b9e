"""The version, apart from the package so that every floor may read it."""

__version__ = "0.1.0"
