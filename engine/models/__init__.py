"""Decoders: one for the Llama family, one small file per further family, and their registry."""
