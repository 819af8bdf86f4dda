"""Triton kernels over the paged layout, each with its form for CPUs. Knows tensors only, no vLLM and no requests."""
