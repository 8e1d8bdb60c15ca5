"""Weights under their Hugging Face names, one tensor at a time."""
