"""`baton bench overlap`: what a prefill does not hide of its hand-off, over a slow link.

Two namespaces, the pair between them shaped; on one side a prefill worker, on the other a decode
worker, of one thread each. Two such pairs of workers, one that sends whole blocks only and one that
decides by itself, get the same prompts in turn, one at a time and in float32, from this program,
which stands for a router; and have to give the same tokens. Of each: the prefill, the time from its
end to the last message (exposed, as the worker tells it), and the time to the first and to the
second token. The first requests, from which a pair learns of its link, are not counted.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import sys
from collections.abc import Iterator, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from baton.bench.results import Result, add_json, deliver, found
from baton.bench.wire.namespaces import ADDRESSES, enter, shaped_link, tcp_bytes_per_s, why_not
from baton.bench.worker_pair import ROLES, WorkerPair, worker

WHOLE, MEASURED = "whole blocks", "as measured"
_GROUPS = {WHOLE: ("--kv-layer-groups", "1"), MEASURED: ()}
_PORTS = {WHOLE: 7001, MEASURED: 7002}
"""The namespaces are new, so nobody else has them."""
_LEARN = 8
_OUTPUT = 12
_LOWEST_ID = 1000
"""Ids below may be special."""
_EXPOSED = "baton_handoff_phase_seconds{exposed}"
_EARLY = "baton_handoff_early_messages_total"


@contextlib.contextmanager
def workers(
    name: str, namespaces: tuple[str, str], model: str | None, extra: Sequence[str]
) -> Iterator[None]:
    """One for prompts in the first namespace, one that decodes in the second."""
    with contextlib.ExitStack() as stack:
        for role, namespace in zip(ROLES, namespaces, strict=True):
            # With an IPC namespace of its own it is another host: shared memory is no way to it.
            elsewhere = ("ip", "netns", "exec", namespace, "unshare", "--ipc")
            options = (
                "--dtype", "float32", "--threads", "1", "--kv-blocks", "512",
                *_GROUPS[name], *extra,
            )  # fmt: skip
            stack.enter_context(worker(role, _address(name), model, options, elsewhere))
        yield


def _address(name: str) -> str:
    return f"{ADDRESSES[0]}:{_PORTS[name]}"


async def ask(tokens: int, requests: int, seed: int) -> dict[str, list[dict[str, Any]]]:
    """The same prompts to both, in turn."""
    rng = np.random.default_rng(seed)
    pairs = {name: WorkerPair() for name in (WHOLE, MEASURED)}
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in pairs}
    await asyncio.gather(*(pair.start(_address(name)) for name, pair in pairs.items()))
    for index in range(requests + _LEARN):
        prompt = rng.integers(_LOWEST_ID, 40_000, tokens).tolist()
        for name, pair in pairs.items():
            row = await _timed(pair, index, prompt)
            shown = {key: round(value) for key, value in row.items() if key != "tokens"}
            print(f"{index + 1}/{requests + _LEARN} {name}: {shown}", file=sys.stderr)
            if index >= _LEARN:
                rows[name].append(row)
    for pair in pairs.values():
        await pair.close()
    return rows


async def _timed(pair: WorkerPair, number: int, prompt: Sequence[int]) -> dict[str, Any]:
    """Milliseconds, and the tokens."""
    told = pair.metric(_EXPOSED + "_sum"), pair.metric(_EXPOSED + "_count")
    early = pair.metric(_EARLY)
    answer = await pair.request(number, prompt, _OUTPUT)
    # Workers tell their metrics once a second.
    await pair.until(lambda: pair.metric(_EXPOSED + "_count") > told[1])
    return {
        "tokens": answer.tokens,
        "first_ms": 1e3 * answer.arrived[0],
        "second_ms": 1e3 * answer.arrived[1],
        "prefill_ms": 1e3 * answer.prefill,
        "exposed_ms": 1e3 * (pair.metric(_EXPOSED + "_sum") - told[0]),
        "early": pair.metric(_EARLY) - early,
    }


def _ask(pipe: Connection, namespace: str, tokens: int, requests: int, seed: int) -> None:
    enter(namespace)
    pipe.send(asyncio.run(ask(tokens, requests, seed)))


def measure(
    model: str | None, mbit: int, tokens: int, requests: int, seed: int, extra: Sequence[str]
) -> dict[str, Any]:
    """Medians, milliseconds. Raises RuntimeError when the requests fail."""
    with shaped_link(mbit) as namespaces:
        tcp = tcp_bytes_per_s(namespaces, max(4 << 20, mbit * 125_000 // 2))
        with (
            workers(WHOLE, namespaces, model, extra),
            workers(MEASURED, namespaces, model, extra),
        ):
            context = get_context("spawn")
            ours, theirs = context.Pipe()
            arguments = (theirs, namespaces[0], tokens, requests, seed)
            process = context.Process(target=_ask, args=arguments)
            process.start()
            theirs.close()
            try:
                rows = ours.recv()
            except EOFError as error:
                raise RuntimeError("the requests failed; see above") from error
            finally:
                process.join(10)
                process.kill()
    return {
        "mbit_per_s": mbit,
        "tcp_bytes_per_s": tcp,
        "requests": requests,
        "same_tokens": [each["tokens"] for each in rows[WHOLE]]
        == [each["tokens"] for each in rows[MEASURED]],
        **{
            name: {
                key: statistics.median(each[key] for each in seen)
                for key in ("prefill_ms", "exposed_ms", "first_ms", "second_ms", "early")
            }
            for name, seen in rows.items()
        },
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="baton bench overlap", description=__doc__)
    parser.add_argument("model", nargs="?", help="as for `baton up`; default: the embedded one")
    parser.add_argument("--link", type=int, action="append", help="Mbit/s; default: 1000")
    parser.add_argument("--tokens", type=int, default=512, help="of each prompt")
    parser.add_argument("--requests", type=int, default=30)
    parser.add_argument("--groups", type=int, help="of layers, instead of what is measured")
    parser.add_argument("--max-batch-tokens", type=int, help="as for `baton worker`")
    parser.add_argument("--seed", type=int, default=1)
    add_json(parser)
    options = parser.parse_args(argv)
    reason = why_not()
    if reason is not None:
        print(f"no shaped link here: {reason}", file=sys.stderr)
        return 1
    if options.groups:
        _GROUPS[MEASURED] = ("--kv-layer-groups", str(options.groups))
    extra: tuple[str, ...] = ()
    if options.max_batch_tokens:
        extra = ("--max-batch-tokens", str(options.max_batch_tokens))
    links = [
        measure(options.model, mbit, options.tokens, options.requests, options.seed, extra)
        for mbit in options.link or [1000]
    ]
    result = found(
        "overlap",
        settings={
            "model": options.model or "embedded",
            "dtype": "float32",
            "prompt_tokens": options.tokens,
            "groups": options.groups,
        },
        series={"links": links},
    )
    if not deliver(result, options.json):
        _show(result)
    return 0 if all(each["same_tokens"] for each in links) else 1


def _show(result: Result) -> None:
    settings = result.settings
    table = Table(
        title=f"Hand-off of {settings['prompt_tokens']} tokens, {settings['model']}, float32, "
        "medians"
    )
    for column in ("link", "", "prefill", "exposed", "first token", "second token", "same tokens"):
        table.add_column(column, justify="right")
    for link in result.series["links"]:
        for name in (WHOLE, MEASURED):
            row = link[name]
            table.add_row(
                f"{link['mbit_per_s']} Mbit/s", name,
                f"{row['prefill_ms']:.0f} ms", f"{row['exposed_ms']:.0f} ms",
                f"{row['first_ms']:.0f} ms", f"{row['second_ms']:.0f} ms",
                "yes" if link["same_tokens"] else "NO",
            )  # fmt: skip
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
