"""Kernels in C for CPUs, compiled at first use, with a fallback where there is no compiler."""
