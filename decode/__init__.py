"""The decode stage: admission, continuous batching, chunked-prefill fallback."""
