"""In the processes of a test's cluster: silence is no death.

A test machine may hold up any process for longer than the seconds after which its peers give it up.
Where silence is not what is tested, they wait. Python imports this file by its name, in every child
too, where its folder is on PYTHONPATH (`cluster.patient_environment`).
"""

from __future__ import annotations

from baton.protocol.link.settings import LinkSettings

PATIENCE = 100.0
"""Seconds; a test ends earlier."""


def wait_longer() -> None:
    """Change the one default that says how long. Raises ValueError when it is not there."""
    names = LinkSettings.__init__.__code__.co_varnames[1:]
    defaults = list(LinkSettings.__init__.__defaults__ or ())
    defaults[names.index("lost_after")] = PATIENCE
    LinkSettings.__init__.__defaults__ = tuple(defaults)  # type: ignore[method-assign]


wait_longer()
