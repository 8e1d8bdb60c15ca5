"""Loans of KV: a worker that is to compute a prompt fetches from another what that has cached.

The typical one: a conversation goes on, its past lies with the worker that decoded the last turn,
and the next prompt is for a prefill worker that has never seen it. `Lend` tells the lender, the
record that starts the request tells the borrower; the two do the rest. Whatever comes of it, the
request runs: a loan saves time or nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice

from baton.protocol.hashing import Chain, kv_root
from baton.protocol.ids import Identity
from baton.protocol.records import Cancel, Lend
from baton.protocol.tokens import pack_tokens
from baton.router.flight import Flight
from baton.router.known_prefixes import KnownPrefixes
from baton.router.loans import MIN_LOAN_BLOCKS, Lender, Loan
from baton.router.observer import Observer
from baton.router.registry import Registry, Worker

MOST_LENDERS = 2
"""That are considered for a request: one of them may be the borrower itself."""
MOST_ASKED = 8
"""That are looked at for these: some may not be there any more, or not know loans."""


class Lending:
    def __init__(
        self,
        registry: Registry,
        observer: Observer,
        known: KnownPrefixes,
    ) -> None:
        self._registry = registry
        self._observer = observer
        self._known = known
        self._chains: dict[Flight, Chain] = {}
        """Of flights that were asked about, until they end."""
        self._lenders: dict[Flight, Identity] = {}
        """Who was told to lend for the current attempt."""

    def held(self, flight: Flight) -> dict[Identity, int]:
        """How many blocks of its prompt and accepted tokens each worker has, who has most first."""
        if len(self._registry) < 2 or self._num_blocks(flight) < MIN_LOAN_BLOCKS:
            return {}
        return self._known.held(self._chain(flight))

    def computed(self, flight: Flight, worker: Identity) -> None:
        """It has the KV of all tokens so far but the last."""
        if self._num_blocks(flight) >= MIN_LOAN_BLOCKS:
            self._known.remember(worker, self._chain(flight))

    def names(self, flight: Flight) -> tuple[list[bytes], int]:
        """Of the full blocks of its prompt, and how many tokens a block has; nothing while there
        has been no worker."""
        layout = self._registry.layout
        if layout is None:
            return [], 0
        return self._chain(flight)[: flight.prompt_tokens // layout.block_size], layout.block_size

    def lenders(self, flight: Flight, held: Mapping[Identity, int]) -> tuple[Lender, ...]:
        """The workers that could lend most of it. `held`: as `held` says."""
        if not held or flight.request.sampling.prompt_logprobs is not None:
            return ()  # or all of the prompt is computed in any case
        found = []
        for identity, blocks in islice(held.items(), MOST_ASKED):  # who has most comes first
            worker = self._registry.get(identity)
            if worker is not None and worker.session.is_open and worker.session.speaks(Lend):
                found.append(Lender(identity, blocks, worker.links))
                if len(found) == MOST_LENDERS:
                    break
        return tuple(found)

    def arrange(self, flight: Flight, borrower: Worker, loan: Loan | None) -> Worker | None:
        """The worker that was told to lend, for the borrower to be told."""
        lender = None if loan is None else self._registry.get(loan.lender)
        if lender is None or not borrower.session.speaks(Lend):
            return None
        self._lenders[flight] = lender.identity
        self._observer.lender_named()
        lender.send(Lend(request=flight.request, borrower=borrower.ref))
        return lender

    def released(self, flight: Flight, reason: str | None) -> None:
        """The attempt is over; a loan that was not is called off, unless (None) it must be."""
        lender = self._registry.get(self._lenders.pop(flight, _NOBODY))
        if lender is not None and reason is not None and lender.identity not in flight.holders:
            lender.send(Cancel(key=flight.key, reason=reason))

    def ended(self, flight: Flight) -> None:
        """Nothing more is asked about it."""
        self._chains.pop(flight, None)

    # -- inside ------------------------------------------------------------------------------

    def _num_blocks(self, flight: Flight) -> int:
        """Full blocks of all its tokens but the last."""
        layout = self._registry.layout
        return 0 if layout is None else (flight.num_tokens - 1) // layout.block_size

    def _chain(self, flight: Flight) -> list[bytes]:
        layout, model = self._registry.layout, self._registry.model
        assert layout is not None, "there are workers"
        assert model is not None, "there are workers"
        chain = self._chains.get(flight)
        if chain is None:
            # As the workers name their blocks, so that it meets what they tell of them.
            root = kv_root(
                model.fingerprint, layout.dtype, layout.block_size, flight.request.cache_salt
            )
            chain = self._chains[flight] = Chain(root)
        count = self._num_blocks(flight)
        if len(chain.hashes) < count:
            packed = flight.request.prompt + pack_tokens(flight.accepted)
            chain.extend(packed[: count * layout.block_size * 4], layout.block_size)
        return chain.hashes[:count]


_NOBODY = Identity("", 0)
