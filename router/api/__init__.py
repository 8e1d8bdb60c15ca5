"""The OpenAI-compatible HTTP API: request schemas, handlers, response shapes."""
