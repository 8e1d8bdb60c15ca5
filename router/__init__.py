"""HTTP API, tokens to text, routing decisions, worker registry."""
