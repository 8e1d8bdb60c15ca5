"""How fast blocks move between two processes of this machine, and what that costs.

Each case moves scattered blocks, one message per block, as a hand-off does; beside it, in the same
run, one contiguous buffer of the same size over the same transport, and a memory copy of the same
blocks within one process. Every round is timed from the first send posted until word that all has
been received has come back. Neither coalescing nor staging is applied.
"""

from __future__ import annotations

import argparse
import asyncio
import json as jsonlib
import multiprocessing
import multiprocessing.connection
import statistics
import time
from collections.abc import Callable, Sequence
from importlib.metadata import distributions
from typing import Any

import msgspec
import numpy as np
import uvloop

from baton.kvtransfer.registry import create_transport
from baton.kvtransfer.tags import TagIssuer
from baton.kvtransfer.transport import Endpoint, Operation, Transport

MIB = 1 << 20
START_SECONDS = 60.0
READY, DONE = 0, 1
"""Offsets of the two tags, before those of the blocks, that each round uses for itself."""


class Case(msgspec.Struct, frozen=True):
    """Blocks of `block_bytes` each; `count` 1 is the contiguous buffer."""

    block_bytes: int
    count: int

    @property
    def total(self) -> int:
        return self.block_bytes * self.count


SCATTERED = (
    Case(64 << 10, 1024),
    Case(12 << 10, 960),
    Case(2 << 20, 32),
    Case(360 << 10, 32),
)


class Sample(msgspec.Struct, frozen=True):
    """One round: seconds in all, seconds within the posting calls, and the CPU seconds of both
    processes."""

    seconds: float
    posting: float
    sender_cpu: float
    receiver_cpu: float


class Round(msgspec.Struct, frozen=True):
    """What the sender tells the receiver of a round; sent over the pipe for all rounds at once."""

    case: Case
    ready_tag: int
    first_tag: int


def plan(rounds: int) -> list[Round]:
    """Every case with its contiguous counterpart. The tags are issued here for both sides; a
    real receiver issues its own."""
    tags = TagIssuer()
    result = []
    # Two cases of the same total share one contiguous buffer.
    for case in dict.fromkeys((*SCATTERED, *(Case(each.total, 1) for each in SCATTERED))):
        for _ in range(rounds + 1):
            first = tags.issue(2 + case.count)
            result.append(Round(case, first, first + 2))
    return result


def blocks_of(pool: np.ndarray[Any, Any], case: Case) -> list[np.ndarray[Any, Any]]:
    """Blocks of the pool with a hole after each, in an order that is not that of memory."""
    order = np.random.default_rng(1).permutation(case.count) if case.count > 1 else [0]
    return [pool[2 * i * case.block_bytes :][: case.block_bytes] for i in order]


def make_pool() -> np.ndarray[Any, Any]:
    """Touched memory, large enough for every case with its holes."""
    return np.ones(2 * max(case.total for case in SCATTERED), np.uint8)


class Awaited:
    """A future for `count` operations."""

    def __init__(self, count: int) -> None:
        self._left = count
        self.future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def done(self, operation: Operation) -> None:
        self._left -= 1
        if operation.error is not None and not self.future.done():
            self.future.set_exception(operation.error)
        elif not self._left and not self.future.done():
            self.future.set_result(None)


async def send_one(endpoint: Endpoint, buffer: Any, tag: int) -> None:
    waited = Awaited(1)
    endpoint.post_send(buffer, tag, waited.done)
    await waited.future


async def receive_side(pipe: multiprocessing.connection.Connection, name: str) -> None:
    """The other process: posts the receives of a round, says so, and says when they ended."""
    transport = create_transport(name)
    pipe.send(transport.address)
    sender, rounds = pipe.recv()
    endpoint = transport.connect(sender, same_host=True)
    pool = make_pool()
    for each in rounds:
        waited = Awaited(each.case.count)
        for index, block in enumerate(blocks_of(pool, each.case)):
            transport.post_receive(block, each.first_tag + index, waited.done)
        await send_one(endpoint, b"", each.ready_tag + READY)
        cpu = time.process_time()
        await waited.future
        spent = np.array([time.process_time() - cpu], np.float64)
        await send_one(endpoint, spent, each.ready_tag + DONE)
    pipe.recv()
    await transport.close()


def receiver_main(pipe: multiprocessing.connection.Connection, name: str) -> None:
    uvloop.run(receive_side(pipe, name))


async def send_round(
    transport: Transport, endpoint: Endpoint, pool: np.ndarray[Any, Any], each: Round
) -> Sample:
    ready, done = Awaited(1), Awaited(1)
    receiver_cpu = np.zeros(1, np.float64)
    transport.post_receive(bytearray(1), each.ready_tag + READY, ready.done)
    transport.post_receive(receiver_cpu, each.ready_tag + DONE, done.done)
    blocks = blocks_of(pool, each.case)
    sent = Awaited(each.case.count)
    await ready.future
    cpu, started = time.process_time(), time.perf_counter()
    for index, block in enumerate(blocks):
        endpoint.post_send(block, each.first_tag + index, sent.done)
    posted = time.perf_counter()
    await done.future
    ended, cpu = time.perf_counter(), time.process_time() - cpu
    await sent.future
    return Sample(ended - started, posted - started, cpu, float(receiver_cpu[0]))


async def send_side(
    pipe: multiprocessing.connection.Connection, name: str, rounds: list[Round]
) -> tuple[str, list[Sample]]:
    transport = create_transport(name)
    if not pipe.poll(START_SECONDS):
        raise TimeoutError("the receiving process did not start")
    address = pipe.recv()
    pipe.send((transport.address, rounds))
    endpoint = transport.connect(address, same_host=True)
    pool = make_pool()
    samples = [await send_round(transport, endpoint, pool, each) for each in rounds]
    pipe.send("end")
    carriers = endpoint.carriers
    await transport.close()
    return carriers, samples


def memcpy_seconds(pool: np.ndarray[Any, Any], case: Case, rounds: int) -> float:
    """The best time of copying the blocks of one pool into those of another."""
    source, target = blocks_of(pool, case), blocks_of(make_pool(), case)

    def copy() -> None:
        for a, b in zip(source, target, strict=True):
            np.copyto(b, a)

    return min(seconds_of(copy) for _ in range(rounds + 1))


def seconds_of(function: Callable[[], None]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def summarize(case: Case, samples: Sequence[Sample]) -> dict[str, Any]:
    """The first sample is the warm-up and is left out."""
    best = min(samples[1:], key=lambda each: each.seconds)
    median = statistics.median(each.seconds for each in samples[1:])
    mib = case.total / MIB
    return {
        "best_gb_per_s": case.total / best.seconds / 1e9,
        "median_gb_per_s": case.total / median / 1e9,
        "posting_share": best.posting / best.seconds,
        "posting_us_per_operation": best.posting / case.count * 1e6,
        "sender_cpu_us_per_mib": best.sender_cpu / mib * 1e6,
        "receiver_cpu_us_per_mib": best.receiver_cpu / mib * 1e6,
    }


def measure(transport: str, rounds: int) -> dict[str, Any]:
    """Everything, as plain values."""
    # Imports torch, which the receiving process has no use for.
    from baton.bench.machine import describe

    schedule = plan(rounds)
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    receiver = context.Process(target=receiver_main, args=(theirs, transport), daemon=True)
    receiver.start()
    theirs.close()
    try:
        carriers, samples = uvloop.run(send_side(ours, transport, schedule))
        receiver.join(10)
    finally:
        receiver.kill()
    by_case: dict[tuple[int, int], list[Sample]] = {}
    for each, sample in zip(schedule, samples, strict=True):
        by_case.setdefault((each.case.block_bytes, each.case.count), []).append(sample)
    pool = make_pool()
    cases = []
    for case in SCATTERED:
        whole = Case(case.total, 1)
        cases.append(
            {
                "block_bytes": case.block_bytes,
                "blocks": case.count,
                "scattered": summarize(case, by_case[case.block_bytes, case.count]),
                "contiguous": summarize(whole, by_case[whole.block_bytes, 1]),
                "memcpy_gb_per_s": case.total / memcpy_seconds(pool, case, rounds) / 1e9,
            }
        )
    return {
        "benchmark": "transfer",
        "transport": transport,
        "carriers": carriers,
        "rounds": rounds,
        "cases": cases,
        "machine": describe(),
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Of what the bytes pass through; a package may be there under another name (CUDA major)."""
    names = {each.metadata["Name"]: each.version for each in distributions()}
    wanted = ("baton-serve", "ucxx", "libucx", "uvloop", "numpy")
    return {name: number for name, number in names.items() if name.startswith(wanted)}


def render(result: dict[str, Any]) -> str:
    lines = [
        f"{result['transport']} over {result['carriers']}, {result['machine']['cpu']}, "
        f"{result['machine']['cores']} cores; GB/s best (median) of {result['rounds']} rounds",
        f"{'blocks':>16} {'scattered':>14} {'contiguous':>14} {'memcpy':>7} "
        f"{'us/post':>8} {'posting':>8} {'CPU us/MiB send, receive':>25}",
    ]
    for case in result["cases"]:
        scattered, whole = case["scattered"], case["contiguous"]
        speed = f"{scattered['best_gb_per_s']:.1f} ({scattered['median_gb_per_s']:.1f})"
        whole_speed = f"{whole['best_gb_per_s']:.1f} ({whole['median_gb_per_s']:.1f})"
        shape = f"{case['block_bytes'] >> 10} KiB x {case['blocks']}"
        cpu = (
            f"{scattered['sender_cpu_us_per_mib']:.0f}, {scattered['receiver_cpu_us_per_mib']:.0f}"
        )
        lines.append(
            f"{shape:>16} {speed:>14} {whole_speed:>14} {case['memcpy_gb_per_s']:>7.1f} "
            f"{scattered['posting_us_per_operation']:>8.1f} {scattered['posting_share']:>8.0%} "
            f"{cpu:>25}"
        )
    return "\n".join(lines)


def run(*, json: bool = False, transport: str = "ucx", rounds: int = 7) -> dict[str, Any]:
    """Measure, print a table or JSON, and return what was measured."""
    result = measure(transport, rounds)
    print(jsonlib.dumps(result, indent=2) if json else render(result))
    return result


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="baton bench transfer", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--rounds", type=int, default=7, help="timed rounds per case")
    options = parser.parse_args(arguments)
    run(json=options.json, rounds=options.rounds)


if __name__ == "__main__":
    main()
