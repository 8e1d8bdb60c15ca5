"""`baton bench serve`: load on any OpenAI-compatible server, measured from its client's side."""
