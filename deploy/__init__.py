"""Composes and starts: the `baton` command, the worker process, the local launcher."""
