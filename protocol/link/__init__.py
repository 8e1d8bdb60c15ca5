"""The control session: pure machine in `session.py`, ZeroMQ around it in `listener.py` and
`dialer.py`; whether a peer's process lives, in `process_watch.py`."""

from baton.protocol.link.dialer import Dialer
from baton.protocol.link.ends import GOODBYE, LossCause, SessionClosed, UnspokenRecord
from baton.protocol.link.listener import Listener
from baton.protocol.link.name_dialer import NameDialer
from baton.protocol.link.process_watch import ProcessWatch, is_gone
from baton.protocol.link.session import Session
from baton.protocol.link.settings import LinkSettings
from baton.protocol.link.stats import LinkStats

__all__ = [
    "GOODBYE",
    "Dialer",
    "LinkSettings",
    "LinkStats",
    "Listener",
    "LossCause",
    "NameDialer",
    "ProcessWatch",
    "Session",
    "SessionClosed",
    "UnspokenRecord",
    "is_gone",
]
