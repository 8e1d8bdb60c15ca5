"""What is particular to the UCX transport, within one process."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator

import numpy as np
import psutil
import pytest
from transport_peer import peer_processes
from transports import ended, ignore, succeeded, until

from baton.kvtransfer.registry import create_transport
from baton.kvtransfer.transport import Operation
from baton.kvtransfer.ucx import UcxTransport
from baton.protocol.errors import ConfigError


@pytest.fixture
async def transport() -> AsyncIterator[UcxTransport]:
    ours = UcxTransport()
    yield ours
    await ours.close()


async def test_our_own_process_is_reached_in_memory(transport: UcxTransport) -> None:
    endpoint = transport.connect(transport.address, same_host=True)
    assert "tcp" not in endpoint.carriers


async def test_tcp_on_one_host_is_a_loud_warning(caplog: pytest.LogCaptureFixture) -> None:
    with peer_processes(1, TLS="tcp,self") as (peer,):
        ours = UcxTransport()
        endpoint = ours.connect(peer.address, same_host=True)
        assert endpoint.carriers == "tcp"
        assert [each.levelname for each in caplog.records if "SLOW PATH" in each.message] == [
            "WARNING"
        ]
        peer.tell(do="receive", tag=1, size=1000)
        await succeeded([endpoint.post_send(np.zeros(1000, np.uint8), 1, ignore)])
        assert (await peer.answer_soon())["errors"] == []
        assert ours.bytes_sent() == {"tcp": 1000}
        # It is TCP now, so the peer's death is UCX's to tell.
        sends = [endpoint.post_send(np.zeros(8 << 20, np.uint8), 2, ignore) for _ in range(3)]
        peer.end()
        await ended(sends)
        assert all(isinstance(each.error, ConnectionResetError) for each in sends)
        await ours.close()


async def test_endpoints_come_and_go_without_a_trace(transport: UcxTransport) -> None:
    process = psutil.Process()

    async def visit(peer_address: bytes, tag: int) -> None:
        endpoint = transport.connect(peer_address, same_host=True)
        await succeeded([endpoint.post_send(b"", tag, ignore)])
        endpoint.close()

    with peer_processes(1) as (peer,):
        peer.ask(do="absorb", tag=0, size=8, count=200)
        for tag in range(20):
            await visit(peer.address, tag)
        await until(lambda: not transport.progress.outstanding.count, "good-byes")
        descriptors = process.num_fds()
        for tag in range(20, 120):
            await visit(peer.address, tag)
        await until(lambda: not transport.progress.outstanding.count, "good-byes")
        assert process.num_fds() <= descriptors + 2


async def test_a_callback_that_posts_on_a_lost_endpoint_does_not_hold_the_loop(
    transport: UcxTransport,
) -> None:
    with peer_processes(1) as (peer,):
        endpoint = transport.connect(peer.address, same_host=True)
        peer.end()
    tries = 0

    def again(operation: Operation) -> None:
        nonlocal tries
        tries += 1
        if tries < 200:
            endpoint.post_send(b"", 1, again)

    endpoint.post_send(b"", 1, again)
    turns, deadline = 0, time.monotonic() + 60
    while tries < 200:
        turns += 1
        assert time.monotonic() < deadline, "the loss is not told"
        await asyncio.sleep(0)
    assert turns >= 100


async def test_many_tries_to_close_are_one(transport: UcxTransport) -> None:
    endpoint = transport.connect(transport.address, same_host=True)
    endpoint.close()
    await transport.close()
    endpoint.close()
    await transport.close()


async def test_options_that_ucx_does_not_take_are_an_error() -> None:
    with pytest.raises(OSError, match="UCX cannot start"):
        UcxTransport({"TLS": "no_such_transport"})
    with pytest.raises(ConfigError, match="there are ucx, inproc"):
        create_transport("pigeon")


def test_importing_leaves_environment_and_stdout_alone() -> None:
    script = (
        "import os, asyncio; before = dict(os.environ)\n"
        "from baton.kvtransfer.ucx import UcxTransport\n"
        "assert dict(os.environ) == before\n"
        "async def run():\n"
        "    transport = UcxTransport()\n"
        "    transport.connect(transport.address, same_host=True)\n"
        "    await transport.close()\n"
        "asyncio.run(run())\n"
    )
    clean = {name: value for name, value in os.environ.items() if not name.startswith("UCX_")}
    result = subprocess.run(
        [sys.executable, "-P", "-c", script], env=clean, capture_output=True, timeout=60
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")
