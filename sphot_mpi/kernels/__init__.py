"""Numba kernels: arrays in, arrays out; nothing here knows a record or a file."""
