"""Request traces: read from files that others published or that a router wrote, and replayed.

| file | known by | lengths | what is shared |
|---|---|---|---|
| Mooncake's | JSON lines with `hash_ids` | `input_length`, `output_length` | blocks of equal id |
| Azure's | CSV with `TIMESTAMP`, or `arrived_at` | tokens of both | nothing is told |
| BurstGPT's | CSV with `Timestamp` | `Request tokens`, `Response tokens` | nothing is told |
| a router's journal | JSON lines with `prompt_tokens` | as counted | prefixes of equal name |

`trace_csv.py` and `trace_json.py` read them. No text is in any of them: prompts are made of tokens
that are equal where the trace says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path

from baton.bench.workloads.arrival import Arrival
from baton.bench.workloads.tokens import VOCABULARY, random_tokens
from baton.bench.workloads.trace_csv import from_csv
from baton.bench.workloads.trace_json import from_json
from baton.bench.workloads.traced import Malformed, Traced
from baton.protocol.errors import ConfigError
from baton.protocol.records import Targets

__all__ = ["Traced", "read_trace", "replay"]


def read_trace(path: Path) -> list[Traced]:
    """In the order of their times. Raises ConfigError that names line, column and what is wrong."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = next((line for line in file if line.strip()), "")
            file.seek(0)
            read = from_json if first.lstrip().startswith("{") else from_csv
            found = list(read(file)) if first else []
    except OSError as error:
        raise ConfigError(f"cannot read the trace {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is no text: {error.reason}") from error
    except Malformed as error:
        raise ConfigError(f"{path}, {error}") from error
    if not found:
        raise ConfigError(f"{path} has no request")
    found.sort(key=lambda traced: traced.at)
    return [replace(traced, at=traced.at - found[0].at) for traced in found]


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
