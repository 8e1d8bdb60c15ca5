"""The worker process: one engine, both stages, sessions with routers and with other workers."""
