"""Measures on a device which tiles, fusions and libraries are best for a network's kernels."""
