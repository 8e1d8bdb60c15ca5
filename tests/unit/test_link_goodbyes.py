"""What was sent last, before a process ends at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import zmq

SIZE = 16 << 20
"""Far more than the system takes for somebody who does not read yet."""

SENDER = f"""
import os, sys, zmq
from baton.protocol.link.pump import new_socket, say_goodbyes

socket = new_socket(zmq.DEALER, sys.argv[1])
socket.setsockopt(zmq.LINGER, 60_000)
socket.connect(sys.argv[1])
socket.send(bytes({SIZE}))
socket.close()
print("closed", flush=True)
say_goodbyes(60_000)
os._exit(0)  # as a fork of a loader ends
"""


def test_it_arrives(tmp_path: Path) -> None:
    address = f"ipc://{tmp_path}/s"
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.setsockopt(zmq.RCVHWM, 1)
        sender = subprocess.Popen(
            [sys.executable, "-P", "-c", SENDER, address], stdout=subprocess.PIPE
        )
        assert sender.stdout is not None
        assert sender.stdout.readline() == b"closed\n"
        socket.bind(address)  # it has sent before there was anybody
        assert socket.poll(60_000), "nothing arrives"
        assert len(socket.recv()) == SIZE
        assert sender.wait(60) == 0
        sender.stdout.close()
