"""Triton kernels over the paged layout, each beside its torch form. Knows tensors only, neither vLLM nor requests."""
