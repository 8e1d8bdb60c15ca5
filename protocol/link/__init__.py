"""The control session: pure machine in `session.py`, ZeroMQ around it in `listener.py` and
`dialer.py`."""

from baton.protocol.link.dialer import Dialer
from baton.protocol.link.listener import Listener
from baton.protocol.link.session import Session, SessionClosed
from baton.protocol.link.settings import LinkSettings
from baton.protocol.link.stats import LinkStats

__all__ = ["Dialer", "LinkSettings", "LinkStats", "Listener", "Session", "SessionClosed"]
