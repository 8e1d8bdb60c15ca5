"""Triton and CPU-native kernels, each beside its plain-PyTorch reference."""
