"""What is compared: layouts of equal resources, as options of `baton up`, and servers that run.

| layout | workers | a step beside decodes |
|---|---|---|
| colocated C | each does both | of at most C tokens, half of them prompts; targets are not known |
| colocated | each does both | as many prompt tokens as the targets allow |
| split P+D | P read prompts, D decode, every request is handed over | decodes alone |
| auto | the router decides, and changes roles | as many prompt tokens as the targets allow |

The first two are one family, whose best member counts: chunked prefill, tuned.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from baton.protocol.errors import ConfigError
from baton.protocol.records import Targets

COLOCATED, SPLIT, AUTO, PEER = "colocated", "split", "auto", "peer"
DISAGGREGATED = (SPLIT, AUTO)
"""Families that hand over."""
CHUNKS = (128, 256, 512, 1024)
_MAX_RUNNING = 64
_SPLITS = 3
"""Of many workers only so many splits are tried unless they are named."""


@dataclass(frozen=True, slots=True)
class Layout:
    name: str
    family: str
    options: tuple[str, ...] = ()
    """Of `baton up`."""
    url: str | None = None
    """Of a server that runs, in place of that."""
    command: tuple[str, ...] = ()
    """Or what starts one, prints its URL once it serves, and ends it when it is ended."""

    @property
    def ours(self) -> bool:
        """`baton up`, started for each run, so with empty caches."""
        return self.url is None and not self.command


def colocated(workers: int, chunk: int | None, targets: Targets) -> Layout:
    """`chunk`: tokens of a step. None: by the targets."""
    both = ("--mixed", str(workers), "--strict-roles", "--sizing", "off")
    if chunk is None:
        return Layout(COLOCATED, COLOCATED, (*both, *told(targets)))
    running = min(_MAX_RUNNING, chunk // 2)
    return Layout(
        f"{COLOCATED} {chunk}",
        COLOCATED,
        (*both, "--max-batch-tokens", str(chunk), "--max-running", str(running)),
    )


def split(prefill: int, decode: int, targets: Targets) -> Layout:
    return Layout(
        f"{SPLIT} {prefill}+{decode}",
        SPLIT,
        ("--prefill", str(prefill), "--decode", str(decode), "--strict-roles", "--sizing", "off",
         *told(targets)),
    )


def auto(workers: int, targets: Targets) -> Layout:
    """Begins with half of them for prompts. Raises ConfigError for fewer than two."""
    if workers < 2:
        raise ConfigError("auto needs two workers or more")
    prefill = workers // 2
    return Layout(
        AUTO, AUTO,
        ("--prefill", str(prefill), "--decode", str(workers - prefill), "--sizing", "auto",
         *told(targets)),
    )


def usual(workers: int, chunks: Sequence[int], targets: Targets) -> list[Layout]:
    """All that make sense with so many workers. Of many workers not all splits: evenly spaced."""
    layouts = [colocated(workers, chunk, targets) for chunk in (*chunks, None)]
    layouts += [split(n, workers - n, targets) for n in _some(workers)]
    return [*layouts, auto(workers, targets)] if workers > 1 else layouts


def _some(workers: int) -> Iterator[int]:
    count = min(workers - 1, _SPLITS)
    yield from sorted({round((n + 1) * workers / (count + 1)) for n in range(count)})


def parse(text: str, workers: int, targets: Targets) -> Layout:
    """"colocated", "colocated 256", "split 1+1", "auto", or "NAME=OPTIONS of baton up". Raises
    ConfigError, also for a split of another number of workers."""
    name, given, options = text.partition("=")
    if given and name.strip():
        return Layout(name.strip(), SPLIT, tuple(shlex.split(options)))
    if text == AUTO:
        return auto(workers, targets)
    if found := re.fullmatch(r"colocated(?: (\d+))?", text):
        return colocated(workers, int(found[1]) if found[1] else None, targets)
    if found := re.fullmatch(r"split (\d+)\+(\d+)", text):
        prefill, decode = int(found[1]), int(found[2])
        if min(prefill, decode) < 1 or prefill + decode != workers:
            raise ConfigError(f"{text}: not a division of {workers} workers (--workers)")
        return split(prefill, decode, targets)
    raise ConfigError(
        f"no layout {text!r}: colocated, colocated 256, split 1+1, auto, or NAME=OPTIONS"
    )


def peer(text: str) -> Layout:
    """"vllm=http://127.0.0.1:8000", or a command in place of the URL. Raises ConfigError."""
    name, _, what = text.partition("=")
    if not name.strip() or not what.strip():
        raise ConfigError(f"--peer {text!r}: must be NAME=URL, or NAME=COMMAND that prints one")
    if what.startswith(("http://", "https://")):
        return Layout(name, PEER, url=what.rstrip("/").removesuffix("/v1"))
    return Layout(name, PEER, command=tuple(shlex.split(what)))


def told(targets: Targets) -> tuple[str, ...]:
    """As options."""
    given = (("--ttft", targets.ttft), ("--itl", targets.itl))
    return tuple(
        word for option, seconds in given if seconds is not None
        for word in (option, f"{seconds * 1e3:g}ms")
    )
