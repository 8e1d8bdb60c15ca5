"""The prefill stage: prompts in, first token and KV blocks out."""
