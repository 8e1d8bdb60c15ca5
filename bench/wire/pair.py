"""Two processes, one of which sends to the other, round by round, as a worker's channel does.

Every round is timed at the sender, from the first message handed over until word that all has
been received has come back.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import uvloop

from baton.bench.wire import cases
from baton.bench.wire.cases import CONTIGUOUS, CONTIGUOUS_PULLED, POOL_BYTES, Round
from baton.bench.wire.namespaces import enter
from baton.kernels.shared_memory import shared_bytes
from baton.kvtransfer.channel import Channel
from baton.kvtransfer.memory import HostBlocks
from baton.kvtransfer.mover import BlockMover
from baton.kvtransfer.probe import ProbeReceiver, ProbeResult, answer_probe
from baton.kvtransfer.registry import create_transport
from baton.kvtransfer.tags import TagIssuer
from baton.kvtransfer.transport import Endpoint, Inbox, Operation, Transport
from baton.protocol.ids import RequestKey
from baton.protocol.records import Record

START_SECONDS = 120.0


@dataclass(frozen=True)
class Sample:
    """One round: seconds in all, seconds within the posting calls, and the CPU seconds of both
    processes."""

    seconds: float
    posting: float
    sender_cpu: float
    receiver_cpu: float


@dataclass(frozen=True)
class Outcome:
    carriers: str
    samples: list[Sample]
    probes: dict[int, ProbeResult]
    """By block size in bytes."""


@dataclass(frozen=True)
class Job:
    rounds: list[Round]
    same_host: bool = True
    namespaces: tuple[str, str] | None = None
    """Of the sender and of the receiver."""


def run_pair(job: Job) -> Outcome:
    """Raises RuntimeError when a process fails."""
    context = multiprocessing.get_context("spawn")
    between = context.Pipe()
    ours, theirs = context.Pipe()
    processes = [
        context.Process(target=_main, args=(sends, pipe, theirs, job), daemon=True)
        for sends, pipe in ((True, between[0]), (False, between[1]))
    ]
    for process in processes:
        process.start()
    theirs.close()
    for pipe in between:
        pipe.close()
    try:
        outcome = ours.recv()
    except EOFError as error:
        raise RuntimeError("the measuring process failed; see above") from error
    finally:
        for process in processes:
            process.join(10)
            process.kill()
    assert isinstance(outcome, Outcome)
    return outcome


def _main(sends: bool, pipe: Connection, result: Connection, job: Job) -> None:
    if job.namespaces is not None:
        enter(job.namespaces[0] if sends else job.namespaces[1])
    if sends:
        result.send(uvloop.run(_sender(pipe, job)))
    else:
        result.close()
        uvloop.run(_receiver(pipe, job))


class Awaited:
    """A future for `count` things to be done."""

    def __init__(self, count: int = 1) -> None:
        self._left = count
        self.future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def done(self, error: Exception | None = None) -> None:
        self._left -= 1
        if error is not None and not self.future.done():
            self.future.set_exception(error)
        elif not self._left and not self.future.done():
            self.future.set_result(None)

    def operation(self, operation: Operation) -> None:
        self.done(operation.error)


class _Side:
    """One process's transport, pool and way to the other. A mover per block size sees the same
    pool as other blocks."""

    def __init__(self, pipe: Connection, job: Job) -> None:
        self.transport: Transport = create_transport("ucx")
        pipe.send(self.transport.address)
        if not pipe.poll(START_SECONDS):
            raise TimeoutError("the other process did not start")
        theirs = pipe.recv()
        self.inbox: Inbox = self.transport.inbox("peer", theirs if job.same_host else None)
        pipe.send(self.inbox.address)
        self.endpoint: Endpoint = self.transport.connect(pipe.recv(), same_host=job.same_host)
        self.pool: np.ndarray[Any, np.dtype[np.uint8]] = shared_bytes(POOL_BYTES)
        self.pool.fill(1)
        self._movers: dict[int, BlockMover] = {}

    def mover(self, block_bytes: int) -> BlockMover:
        mover = self._movers.get(block_bytes)
        if mover is None:
            usable = POOL_BYTES // block_bytes * block_bytes
            rows = self.pool[:usable].reshape(-1, block_bytes)
            mover = self._movers[block_bytes] = BlockMover(self.transport, HostBlocks(rows))
        return mover

    async def tell(self, tag: int, data: Any = b"") -> None:
        sent = Awaited()
        self.endpoint.post_send(data, tag, sent.operation)
        await sent.future

    def hear(self, tag: int, buffer: Any) -> Awaited:
        heard = Awaited()
        self.inbox.post_receive(buffer, tag, heard.operation)
        return heard


def _block_sizes(job: Job) -> list[int]:
    return sorted({each.case.block_bytes for each in job.rounds})


async def _receiver(pipe: Connection, job: Job) -> None:
    side = _Side(pipe, job)
    issue = TagIssuer().issue
    for block_bytes in _block_sizes(job):
        result = await _probe(side, issue, block_bytes, job, pipe)
        pipe.send(result)
    for each in job.rounds:
        if each.variant in (CONTIGUOUS, CONTIGUOUS_PULLED):
            awaited = Awaited()
            target = cases.whole_buffer(side.pool, each)
            post = side.inbox.post_receive if each.variant == CONTIGUOUS else side.inbox.take
            post(target, each.first_tag + 2, awaited.operation)
        else:
            scheme = cases.schemes(each.case.block_bytes)[each.variant]
            groups = cases.messages(cases.blocks_of(each, 2), scheme)
            awaited = Awaited(len(groups))
            mover = side.mover(each.case.block_bytes)
            for index, group in enumerate(groups):
                tag = each.first_tag + 2 + index
                mover.receive(group, tag, scheme, awaited.done, inbox=side.inbox)
        await side.tell(each.first_tag)
        cpu = time.process_time()
        await awaited.future
        spent = np.array([time.process_time() - cpu], np.float64)
        await side.tell(each.first_tag + 1, spent)
    pipe.recv()
    await side.transport.close()


async def _probe(
    side: _Side, issue: Callable[[int], int], block_bytes: int, job: Job, pipe: Connection
) -> ProbeResult:
    results: list[ProbeResult] = []
    over = Awaited()

    def keep(result: ProbeResult) -> None:
        results.append(result)
        over.done()

    probe = ProbeReceiver(side.transport, issue, block_bytes, keep, side.inbox)
    record: Record = probe.start(same_host=job.same_host)
    pipe.send(record)
    await over.future
    return results[0]


class _TimedMover(BlockMover):
    """Adds up the time within `send`."""

    posting = 0.0

    def send(self, *arguments: Any, **named: Any) -> None:
        started = time.perf_counter()
        super().send(*arguments, **named)
        self.posting += time.perf_counter() - started


async def _sender(pipe: Connection, job: Job) -> Outcome:
    side = _Side(pipe, job)
    probes = {}
    loop = asyncio.get_running_loop()
    for block_bytes in _block_sizes(job):
        probe = await loop.run_in_executor(None, pipe.recv)
        answer_probe(probe, side.endpoint, side.transport)
        probes[block_bytes] = await loop.run_in_executor(None, pipe.recv)
    channels: dict[int, tuple[_TimedMover, Channel]] = {}
    for block_bytes in _block_sizes(job):
        mover = _TimedMover(side.transport, side.mover(block_bytes).blocks)
        channel = Channel(mover)
        channel.opened(None, side.endpoint)
        channels[block_bytes] = mover, channel
    samples = [await _send_round(side, *channels[each.case.block_bytes], each)
               for each in job.rounds]
    pipe.send("end")
    carriers = side.endpoint.carriers
    await side.transport.close()
    return Outcome(carriers, samples, probes)


async def _send_round(side: _Side, mover: _TimedMover, channel: Channel, each: Round) -> Sample:
    receiver_cpu = np.zeros(1, np.float64)
    ready = side.hear(each.first_tag, bytearray(1))
    received = side.hear(each.first_tag + 1, receiver_cpu)
    key = RequestKey(str(each.first_tag), 0)
    scheme = cases.schemes(each.case.block_bytes).get(each.variant)
    groups = cases.messages(cases.blocks_of(each, 1), scheme) if scheme is not None else []
    source = cases.whole_buffer(side.pool, each)
    sent = Awaited(max(1, len(groups)))
    await ready.future
    mover.posting = 0.0
    cpu, started = time.process_time(), time.perf_counter()
    if scheme is None:
        post = side.endpoint.post_send if each.variant == CONTIGUOUS else side.endpoint.offer
        post(source, each.first_tag + 2, sent.operation)
        mover.posting = time.perf_counter() - started
    else:
        for index, group in enumerate(groups):
            channel.send_blocks(key, group, each.first_tag + 2 + index, scheme, sent.done)
    await received.future
    ended, cpu = time.perf_counter(), time.process_time() - cpu
    await sent.future
    return Sample(ended - started, mover.posting, cpu, float(receiver_cpu[0]))
