"""Triton kernels over the paged layout, each beside its form for CPUs. Knows tensors only, neither vLLM nor requests."""
