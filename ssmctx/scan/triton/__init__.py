"""The `triton` backend: fused kernels of the scan for GPUs."""
