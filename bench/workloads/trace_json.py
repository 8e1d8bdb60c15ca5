"""Traces that are lines of JSON: Mooncake's, and a router's journal.

Only in a journal may a line be broken: that of a router that was killed while it wrote (the next
one begins a new line). Anywhere else it would be a request that silently is not there.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from baton.bench.workloads.traced import Malformed, Traced, number_of, tokens_of
from baton.router.account import Account, prefix_depths

MOONCAKE_BLOCK = 512
"""Tokens."""


def from_json(lines: Iterable[str]) -> Iterator[Traced]:
    """In the order of the file. What the first whole line is, the others have to be. Raises
    Malformed."""
    mooncake: bool | None = None
    broken: Malformed | None = None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line.strip())
        except json.JSONDecodeError as error:
            problem = Malformed(number, "", f"is no JSON: {error.msg} at column {error.colno}")
            if mooncake:
                raise problem from error
            broken = broken or problem
            continue
        if not isinstance(record, dict):
            raise Malformed(number, "", "is no JSON object")
        if mooncake is None:
            mooncake = "hash_ids" in record
            if mooncake and broken is not None:
                raise broken
        yield _mooncake(record, number) if mooncake else _journal(record, number)
    if broken is not None and mooncake is None:
        raise broken


def _mooncake(record: dict[str, Any], line: int) -> Traced:
    missing = [name for name in ("timestamp", "input_length", "output_length", "hash_ids")
               if name not in record]
    if missing:
        raise Malformed(line, _named(missing[0]), "is missing")
    ids = record["hash_ids"]
    if not isinstance(ids, list):
        raise Malformed(line, _named("hash_ids"), f"{ids!r} is no list")
    return Traced(
        at=number_of(record["timestamp"], line, _named("timestamp")) / 1e3,
        prompt=tokens_of(record["input_length"], line, _named("input_length")),
        output=tokens_of(record["output_length"], line, _named("output_length")),
        parts=tuple((f"block {number}", MOONCAKE_BLOCK) for number in ids),
    )


def _journal(record: dict[str, Any], line: int) -> Traced:
    try:
        account = msgspec.convert(record, Account)
    except msgspec.ValidationError as error:
        raise Malformed(line, "", f"{error}; neither Mooncake's (hash_ids) nor a router's "
                        "journal") from error
    prompt = tokens_of(account.prompt_tokens, line, _named("prompt_tokens"))
    depths = prefix_depths(prompt, account.block_size) if account.prefix else []
    if len(depths) != len(account.prefix):
        raise Malformed(line, _named("prefix"), f"{len(account.prefix)} names, of "
                        f"{prompt} tokens there are {len(depths)}")
    parts, before = [], 0
    for name, depth in zip(account.prefix, depths, strict=True):
        tokens = depth * account.block_size
        parts.append((f"prefix {name}", tokens - before))
        before = tokens
    return Traced(
        at=number_of(account.arrived, line, _named("arrived")),
        prompt=prompt,
        output=max(1, account.output_tokens),
        parts=tuple(parts),
    )


def _named(field: str) -> str:
    return f"field {field!r}"
