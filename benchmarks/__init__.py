"""Measurements of the generated kernels: what they compile to, without a device."""
