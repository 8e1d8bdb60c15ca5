"""How long a receiver is dialled again after its session broke."""

from __future__ import annotations

from itertools import pairwise

from baton.prefill.debts import DEBT_SECONDS, Debts
from baton.protocol.ids import Identity
from baton.protocol.records import WorkerRef

REF = WorkerRef(Identity("d", 1), "tcp://127.0.0.1:1")


def nobody(_: Identity) -> bool:
    return False


def test_it_is_dialled_ever_more_rarely_until_it_answers_or_time_is_up() -> None:
    debts = Debts()
    debts.owe(REF, 0.0)
    dialled = [now / 10 for now in range(600) if debts.due(now / 10, nobody)]
    assert len(dialled) == 6
    assert all(b - a > a for a, b in pairwise(dialled) if a < 15)
    assert debts.receivers == {REF.identity}
    assert debts.due(DEBT_SECONDS, nobody) == []
    assert not debts
    debts.owe(REF, 0.0)
    debts.settle(REF.identity)
    assert not debts


def test_a_life_that_is_over_is_not_dialled_again() -> None:
    debts = Debts()
    debts.owe(REF, 0.0)
    assert debts.due(100.0, lambda peer: peer == REF.identity) == []
    assert not debts
