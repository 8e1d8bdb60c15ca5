"""Whether a worker had better fetch what others have cached of a prompt than compute it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from baton.protocol.curves import LinkCurve
from baton.protocol.ids import Identity
from baton.router.speed import WorkerModel

MIN_LOAN_BLOCKS = 8
"""KV blocks that another worker must have more of before it is worth while to fetch them, where
nobody knows how long that takes."""


class Lender(msgspec.Struct, frozen=True):
    """A worker that could lend its leading blocks of a prompt."""

    identity: Identity
    blocks: int
    links: Mapping[str, LinkCurve] = {}
    """From it, by the receiver's worker id."""

    def link_to(self, borrower: Identity) -> LinkCurve | None:
        """One that was never used is taken to be like another of this lender's: what is never
        tried would never be known."""
        links = self.links
        return links.get(borrower.node_id) or next(iter(links.values()), None)


class Loan(msgspec.Struct, frozen=True):
    lender: Identity
    blocks: int
    """That the borrower has then."""
    seconds: float | None
    """That fetching takes. None: not known."""
    saved: float
    """Against computing it; 0 where fetching is not known."""
    rest: tuple[float, float] = (0.0, 0.0)
    """What is left to compute then, as `WorkerModel.prefill`; nothing where fetching is not
    known."""


def best_loan(
    lenders: Iterable[Lender],
    borrower: Identity,
    model: WorkerModel,
    own: int,
    tokens: int,
    block_size: int,
    token_bytes: int,
    alone: float,
) -> Loan | None:
    """What saves most for a borrower that has `own` leading blocks of a prompt of so many tokens,
    and would compute the rest in `alone` seconds; None when nothing saves any. Where no link is
    known it is tried when there is much to fetch."""
    best: Loan | None = None
    for lender in lenders:
        more = lender.blocks - own
        if more <= 0 or lender.identity == borrower:
            continue
        link = lender.link_to(borrower)
        if link is None or not model.measured:
            loan = Loan(lender.identity, lender.blocks, None, 0.0)
            if more < MIN_LOAN_BLOCKS:
                continue
        else:
            seconds = link.seconds(more * block_size * token_bytes)
            rest = model.prefill(tokens, lender.blocks * block_size)
            saved = alone - rest[0] - seconds
            if saved <= 0:
                continue
            loan = Loan(lender.identity, lender.blocks, seconds, saved, rest)
        if best is None or (loan.saved, loan.blocks) > (best.saved, best.blocks):
            best = loan
    return best
