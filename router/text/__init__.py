"""Tokens to text as they arrive: detokenising, stop strings, log-probability entries."""
