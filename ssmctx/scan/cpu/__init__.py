"""The `cpu` backend: numba kernels of the scan, shared out over threads."""
