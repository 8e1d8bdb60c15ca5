"""Whether a dialing socket is connected just now, from ZeroMQ's own reports.

The socket option that would refuse to queue for an absent peer (IMMEDIATE) also throws away what
a closing peer said last, so it is of no use here.
"""

from __future__ import annotations

from collections.abc import Callable

import zmq
from zmq.utils.monitor import parse_monitor_message

from baton.protocol.link.pump import Pump


class ConnectionWatch:
    """Calls `on_change(connected)` from the loop. Make it before the socket connects, and close it
    before the socket."""

    def __init__(self, socket: zmq.Socket[bytes], on_change: Callable[[bool], None]) -> None:
        self._socket = socket
        self._on_change = on_change
        reports = socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED)
        self._pump = Pump(reports, self._on_message, lambda now: float("inf"))

    def close(self) -> None:
        """Idempotent, also after the socket was closed."""
        if not self._socket.closed:
            self._socket.disable_monitor()
        self._pump.close()

    def _on_message(self, parts: list[bytes]) -> None:
        event = parse_monitor_message(parts)["event"]
        if event in (zmq.EVENT_HANDSHAKE_SUCCEEDED, zmq.EVENT_DISCONNECTED):
            self._on_change(event == zmq.EVENT_HANDSHAKE_SUCCEEDED)
