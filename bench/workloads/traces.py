"""Request traces: read from files that others published or that a router wrote, and replayed.

| file | known by | lengths | what is shared |
|---|---|---|---|
| Mooncake's | JSON lines with `hash_ids` | `input_length`, `output_length` | blocks of equal id |
| Azure's | CSV with `arrived_at` | `num_prefill_tokens`, `num_decode_tokens` | nothing is told |
| BurstGPT's | CSV with `Timestamp` | `Request tokens`, `Response tokens` | nothing is told |
| a router's journal | JSON lines with `prompt_tokens` | as counted | prefixes of equal name |

No text is in any of them: prompts are made of tokens that are equal where the trace says so.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import msgspec

from baton.bench.workloads.arrival import Arrival
from baton.bench.workloads.tokens import VOCABULARY, random_tokens
from baton.protocol.errors import ConfigError
from baton.protocol.records import Targets
from baton.router.account import Account, prefix_depths

MOONCAKE_BLOCK = 512
"""Tokens."""
_AZURE = ("arrived_at", "num_prefill_tokens", "num_decode_tokens")
_BURST_GPT = ("Timestamp", "Request tokens", "Response tokens")
"""Columns of when a request came, and of its lengths."""


@dataclass(frozen=True, slots=True)
class Traced:
    at: float
    """Seconds after the first."""
    prompt: int
    """Tokens."""
    output: int
    """Tokens, at least 1."""
    parts: tuple[tuple[str, int], ...] = ()
    """Of the prompt, from its beginning: (name, tokens). Equal names, equal tokens. What is left is
    nobody else's."""


def read_trace(path: Path) -> list[Traced]:
    """In the order of their times. Raises ConfigError that names the line and what is wrong."""
    number = 0
    try:
        with path.open(encoding="utf-8", newline="") as file:
            first = file.readline()
            file.seek(0)
            read = _from_json if first.lstrip().startswith("{") else _from_csv
            found: list[Traced] = []
            for line, traced in read(file):
                found.append(traced)
                number = line
    except OSError as error:
        raise ConfigError(f"cannot read the trace {path}: {error.strerror}") from error
    except (KeyError, ValueError, TypeError, msgspec.ValidationError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise ConfigError(
            f"{path}, after line {number}: {what}; a trace has hash_ids (JSON lines), arrived_at "
            "or Timestamp (CSV), or is a router's journal"
        ) from error
    if not found:
        raise ConfigError(f"{path} has no request")
    found.sort(key=lambda traced: traced.at)
    first_at = found[0].at
    return [
        Traced(traced.at - first_at, traced.prompt, traced.output, traced.parts)
        for traced in found
    ]


def replay(
    trace: Sequence[Traced],
    *,
    speed: float = 1.0,
    start: float = 0.0,
    seconds: float | None = None,
    longest: int,
    max_tokens: int,
    targets: Targets,
    vocabulary: int = VOCABULARY,
) -> Iterator[Arrival]:
    """The requests of `seconds` seconds of the trace from `start` on, `speed` times as fast.
    Prompts beyond `longest` tokens are left out, answers beyond `max_tokens` cut."""
    for number, traced in enumerate(trace):
        if traced.at < start or traced.prompt > longest:
            continue
        if seconds is not None and traced.at >= start + seconds:
            return
        yield Arrival(
            at=(traced.at - start) / speed,
            prompt=_prompt_of(traced, number, vocabulary),
            length=min(traced.output, max_tokens),
            limit=max_tokens,
            noise=number,
            kind="trace",
            targets=targets,
        )


def _prompt_of(traced: Traced, number: int, vocabulary: int) -> Callable[[], bytes]:
    def make() -> bytes:
        pieces, left = [], traced.prompt
        for name, tokens in traced.parts:
            take = min(tokens, left)
            pieces.append(random_tokens(_seed(name), tokens, vocabulary)[: 4 * take])
            left -= take
        if left:
            pieces.append(random_tokens(_seed(f"alone {number}"), left, vocabulary))
        return b"".join(pieces)

    return make


def _seed(name: str) -> int:
    return int.from_bytes(blake2b(name.encode(), digest_size=6).digest(), "big")


# -- formats ---------------------------------------------------------------------------------


def _from_json(lines: Any) -> Iterator[tuple[int, Traced]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            if number > 1:
                continue  # of a journal whose writer was killed
            raise
        yield number, (_mooncake(record) if "hash_ids" in record else _journal(record))


def _mooncake(record: dict[str, Any]) -> Traced:
    ids = record["hash_ids"]
    return Traced(
        at=record["timestamp"] / 1e3,
        prompt=_count(record["input_length"], 1),
        output=_count(record["output_length"], 1),
        parts=tuple((f"block {number}", MOONCAKE_BLOCK) for number in ids),
    )


def _journal(record: dict[str, Any]) -> Traced:
    account = msgspec.convert(record, Account)
    depths = prefix_depths(account.prompt_tokens, account.block_size) if account.prefix else []
    parts, before = [], 0
    for name, depth in zip(account.prefix, depths, strict=True):
        tokens = depth * account.block_size
        parts.append((f"prefix {name}", tokens - before))
        before = tokens
    return Traced(
        at=account.arrived,
        prompt=_count(account.prompt_tokens, 1),
        output=max(1, account.output_tokens),
        parts=tuple(parts),
    )


def _from_csv(lines: Any) -> Iterator[tuple[int, Traced]]:
    rows = csv.DictReader(lines)
    burst = "Timestamp" in (rows.fieldnames or ())
    at, prompt, output = _BURST_GPT if burst else _AZURE
    for number, row in enumerate(rows, start=2):
        if burst and int(row[output]) == 0:
            continue  # that is how it marks requests that failed
        yield number, Traced(
            at=float(row[at]), prompt=_count(row[prompt], 1), output=_count(row[output], 1)
        )


def _count(value: Any, least: int) -> int:
    number = int(value)
    if number < least:
        raise ValueError(f"{value} tokens")
    return number
