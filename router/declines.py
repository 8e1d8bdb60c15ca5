"""What a worker's reason to decline an attempt says of the worker. Pure."""

from __future__ import annotations

NO_ROOM = "busy"
"""Declined so by a worker with other work of ours, it is asked for nothing until some of that has
ended, or until its next heartbeat."""
BETWEEN = frozenset({
    "peer_lost", "expired", "send_failed", "receive_failed", "sender_expired", "sender_send_failed",
})
"""A hand-off came to nothing. That says something of the way between two workers."""
EXPIRED = frozenset({"expired", "sender_expired"})
"""Of these, what ends a hand-off for which nothing has come, or gone, for too long."""
NO_FAULT = frozenset({NO_ROOM, "draining"}) | BETWEEN
"""Reasons that say nothing of who declines, and cost no retry budget: when a peer dies or a link is
cut, all that was handed over there is lost at once."""
