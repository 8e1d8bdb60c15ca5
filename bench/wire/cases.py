"""What is moved: cases, schemes, and the rounds of a run. The same on both sides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from baton.kvtransfer.probe import SMALL_MESSAGE, blocks_in
from baton.kvtransfer.staging import LARGE_MESSAGE, PULLED_MESSAGE, STAGING_BYTES
from baton.kvtransfer.tags import TagIssuer
from baton.protocol.records import DIRECT, Scheme

POOL_BYTES = 512 << 20
"""Of each side: so much more than the caches hold, that blocks drawn from it are cold."""


@dataclass(frozen=True)
class Case:
    """`count` scattered blocks of `block_bytes` each."""

    block_bytes: int
    count: int

    @property
    def total(self) -> int:
        return self.block_bytes * self.count

    @property
    def name(self) -> str:
        return f"{self.block_bytes >> 10} KiB x {self.count}"


SCATTERED = (
    Case(64 << 10, 1024),
    Case(12 << 10, 960),
    Case(2 << 20, 32),
    Case(360 << 10, 32),
)
"""The last is the embedded model's own block in bfloat16 and 512 tokens."""
POSTING = Case(32 << 10, 1024)
"""32 MiB, for the share of posting."""


@dataclass(frozen=True)
class Round:
    """`variant` names how: "contiguous", or a scheme. `number` counts rounds of one case and
    variant, and says which blocks are drawn. Tags: one for "ready", one for "done", then one for
    each message."""

    case: Case
    variant: str
    number: int
    first_tag: int


def schemes(block_bytes: int) -> dict[str, Scheme]:
    """The ways that a probe chooses from; between hosts not those that are pulled."""
    return {
        "16 MiB pulled": Scheme(blocks_in(PULLED_MESSAGE, block_bytes), pulled=True),
        "4 MiB pulled": Scheme(blocks_in(LARGE_MESSAGE, block_bytes), pulled=True),
        "1 MiB messages": Scheme(blocks_in(SMALL_MESSAGE, block_bytes), staged=False),
        "4 MiB messages": Scheme(blocks_in(LARGE_MESSAGE, block_bytes), staged=False),
        "block by block": DIRECT,
        "staged": Scheme(blocks_in(STAGING_BYTES, block_bytes), staged=True),
    }


CONTIGUOUS = "contiguous"
CONTIGUOUS_PULLED = "contiguous, pulled"


def variants(*, same_host: bool) -> list[str]:
    names = [
        name for name, scheme in schemes(1).items() if same_host or not scheme.pulled
    ]
    return [CONTIGUOUS, *([CONTIGUOUS_PULLED] if same_host else []), *names]


def plan(cases: tuple[Case, ...], rounds: int, *, same_host: bool = True) -> list[Round]:
    """Every case in every variant, all of them once before any comes again, so that what else the
    machine does meets all alike. The first of each is a warm-up."""
    tags = TagIssuer()
    wanted = [(case, name) for case in cases for name in variants(same_host=same_host)]
    return [
        Round(case, variant, number, tags.issue(2 + case.count))
        for number in range(rounds + 1)
        for case, variant in wanted
    ]


def blocks_of(each: Round, salt: int) -> list[int]:
    """Which blocks of the pool: others in each round, in an order that is not that of memory;
    for the contiguous buffer, the block that follows its place. `salt` tells the sides apart."""
    available = POOL_BYTES // each.case.block_bytes
    count = each.case.count
    order = np.random.default_rng(salt).permutation(available)
    first = each.number * count % (available - count + 1)
    return [int(block) for block in order[first : first + count]]


def whole_buffer(pool: np.ndarray[Any, Any], each: Round) -> np.ndarray[Any, Any]:
    """Another part of the pool in each round."""
    total = each.case.total
    first = each.number * total % (len(pool) - total + 1)
    return pool[first : first + total]


def messages(blocks: list[int], scheme: Scheme) -> list[list[int]]:
    step = scheme.blocks_per_message
    return [blocks[at : at + step] for at in range(0, len(blocks), step)]

