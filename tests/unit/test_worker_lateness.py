"""A worker that stood still for longer than its sessions live says so, and ends."""

from __future__ import annotations

from baton.deploy.worker.lateness import Lateness
from baton.protocol.link import LinkSettings


def test_only_a_gap_as_long_as_a_session_lives_is_late() -> None:
    limit = LinkSettings().lost_after
    lateness = Lateness()
    assert lateness.look(1e6) is None
    assert lateness.look(1e6 + 0.5) is None
    assert lateness.look(1e6 + 0.5 + limit - 0.01) is None
    assert lateness.look(1e6 + 0.5 + 2 * limit) is not None
    assert lateness.look(1e6 + 1.0 + 2 * limit) is None
