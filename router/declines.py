"""What a worker's reason to decline an attempt says of the worker. Pure."""

from __future__ import annotations

NO_ROOM = "busy"
"""Declined so by a worker with other work of ours, it is asked for nothing until some of that has
ended, or until its next heartbeat."""
NO_FAULT = frozenset({NO_ROOM, "draining", "peer_lost"})
"""Reasons that say nothing of who declines, and cost no retry budget: when a peer dies, all that it
shared requests with lose them at once."""
