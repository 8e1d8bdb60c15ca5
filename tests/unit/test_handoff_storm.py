"""Whole workers in storms (see storm.py), and proof that the storms see what they should: each
rule of the hand-off is broken on purpose once."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from storm import Storm

from baton.decode.stage import DecodeStage
from baton.engine.commands import Release
from baton.engine.scheduler import Scheduler
from baton.kvtransfer.handoff.actions import Detach, EndQuarantine, PostSend, ReleaseBlocks
from baton.kvtransfer.handoff.receiver import Receiver, ReceiverState
from baton.kvtransfer.handoff.sender import Sender
from baton.prefill import debts
from baton.prefill import stage as sending
from baton.prefill.stage import PrefillStage

Actions = list[Any]


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Storms log thousands of expected errors."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@cache
def storms(part: int) -> Counter[tuple[str, str]]:
    """A thousand of them, and how hand-offs ended in them."""
    seen: Counter[tuple[str, str]] = Counter()
    for seed in range(part * 1000, (part + 1) * 1000):
        for life in Storm(seed).run().lives:
            seen.update(life.observer.outcomes)
    return seen


@pytest.mark.parametrize("part", [
    part if part < 4 else pytest.param(part, marks=pytest.mark.soak) for part in range(20)
])
def test_twenty_thousand_storms(part: int) -> None:
    assert storms(part)


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("part", range(100))
def test_half_a_million_longer_storms(part: int) -> None:
    for seed in range(1_000_000 + part * 5000, 1_000_000 + (part + 1) * 5000):
        Storm(seed, moves=240).run()


def test_storms_reach_every_outcome() -> None:
    """A storm that never gets anywhere would find nothing."""
    seen = storms(0)
    for wanted in (
        ("receive request", "admitted"), ("receive request", "corrupt"),
        ("receive request", "busy"), ("receive request", "cancelled"),
        ("receive request", "expired"), ("receive request", "peer_lost"),
        ("receive request", "receive_failed"), ("receive request", "sender_finished"),
        ("receive request", "sender_ended"), ("receive loan", "adopted"),
        ("receive loan", "all_cached"), ("receive loan", "busy"), ("receive loan", "expired"),
        ("receive loan", "peer_lost"), ("receive loan", "sender_not_cached"),
        ("send prefill", "acked"), ("send prefill", "cancelled"), ("send prefill", "expired"),
        ("send prefill", "peer_lost"), ("send prefill", "revoked"), ("send loan", "acked"),
        ("send loan", "revoked"), ("send migration", "acked"), ("send migration", "peer_lost"),
        ("send migration", "not_running"), ("message", "amid a step"),
        ("message", "after its step"),
    ):
        assert seen[wanted], f"no storm saw {wanted}; there were {dict(seen)}"


# -- broken on purpose -----------------------------------------------------------------------


def altered(
    owner: type, method: str, change: Callable[[Any, Actions], Actions]
) -> Callable[[pytest.MonkeyPatch], None]:
    """The method's actions, changed by `change(machine, actions)`."""

    def break_it(patch: pytest.MonkeyPatch) -> None:
        right = getattr(owner, method)

        def wrong(self: Any, *args: Any, **kwargs: Any) -> Actions:
            return change(self, right(self, *args, **kwargs))

        patch.setattr(owner, method, wrong)

    return break_it


def without(kind: type) -> Callable[[Any, Actions], Actions]:
    return lambda machine, actions: [each for each in actions if not isinstance(each, kind)]


def no_quarantine(machine: Any, actions: Actions) -> Actions:
    return [
        replace(each, quarantine=()) if isinstance(each, ReleaseBlocks) else each
        for each in actions
    ]


def admit_at_seal(machine: Receiver, actions: Actions) -> Actions:
    if machine.state is ReceiverState.GRANTED and machine._sealed is not None:
        return actions + machine._admit()
    return actions


def ready_too_early(patch: pytest.MonkeyPatch) -> None:
    right = Sender.on_progress

    def wrong(self: Sender, blocks: Any, ready: int, **rest: Any) -> Actions:
        return right(self, blocks, min(ready + 1, len(blocks)), **rest)

    patch.setattr(Sender, "on_progress", wrong)


def layers_too_early(patch: pytest.MonkeyPatch) -> None:
    right = Sender.on_layers

    def wrong(self: Sender, blocks: Any, begun: int, layers: int, now: float) -> Actions:
        return right(self, blocks, begun, layers + 1, now)

    patch.setattr(Sender, "on_layers", wrong)


def blocks_not_begun(patch: pytest.MonkeyPatch) -> None:
    right = Sender.on_layers

    def wrong(self: Sender, blocks: Any, begun: int, layers: int, now: float) -> Actions:
        return right(self, blocks, len(blocks), layers, now)

    patch.setattr(Sender, "on_layers", wrong)


def first_layers_end_quarantine(patch: pytest.MonkeyPatch) -> None:
    right = Receiver.on_receive_done

    def wrong(self: Receiver, tag: int, *rest: Any) -> Actions:
        blocks = self._open.get(tag, ())
        actions: Actions = right(self, tag, *rest)
        draining = self.state is ReceiverState.DRAINING and not self._scheme.staged
        return [*actions, EndQuarantine(blocks)] if draining and not actions else actions

    patch.setattr(Receiver, "on_receive_done", wrong)


def forget_at_once(patch: pytest.MonkeyPatch) -> None:
    right = Scheduler.abandon

    def wrong(self: Scheduler, batch: Any, code: str, message: str) -> Any:
        events = right(self, batch, code, message)
        for event in events:
            self._release(Release(event.key))
        return events

    patch.setattr(Scheduler, "abandon", wrong)


def trust_whatever_came(patch: pytest.MonkeyPatch) -> None:
    right = Receiver.on_verified
    patch.setattr(Receiver, "on_verified", lambda self, bad: right(self, ()))


def adopt_what_was_not_sent(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Receiver, "_filled", lambda self, sealed: self.num_blocks)


def deaf_to_a_second_revoke(patch: pytest.MonkeyPatch) -> None:
    right = Sender.on_revoke
    patch.setattr(sending, "answer_unknown", lambda revoke: [])
    patch.setattr(
        Sender, "on_revoke", lambda self, revoke: [] if revoke.again else right(self, revoke))


def lost_means_gone(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(DecodeStage, "on_peer_lost", lambda self, peer: [
        self._do(each, each.machine.on_peer_gone()) for each in self._from(peer)])


def forget_late_grants(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Sender, "lingers", property(lambda self: False))
    patch.setattr(
        PrefillStage, "_handoff", _only_known(PrefillStage._handoff))


def _only_known(right: Any) -> Any:
    """A grant for an unknown hand-off makes one that does nothing."""

    def handoff(self: Any, key: Any, peer: Any, lease: float) -> Any:
        known = (key, peer) in self._handoffs
        made = right(self, key, peer, lease)
        if not known and lease == self._lease:
            made.machine.on_nothing("unknown")
            made.machine._answered = True
        return made

    return handoff


BROKEN: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "the receiver gives back blocks under receives": altered(Receiver, "_fail", no_quarantine),
    "the receiver does not detach staged receives": altered(Receiver, "_fail", without(Detach)),
    "the receiver never ends a quarantine": altered(
        Receiver, "on_receive_done", without(EndQuarantine)),
    "the receiver admits when sealed, not when all is here": altered(
        Receiver, "on_sealed", admit_at_seal),
    "the receiver does not compare checksums": trust_whatever_came,
    "the receiver adopts what was not sent": adopt_what_was_not_sent,
    "the receiver takes a lost session for a dead process": lost_means_gone,
    "the receiver never expires": lambda patch: patch.setattr(
        Receiver, "on_time", lambda self, now: []),
    "the sender gives back blocks under sends": altered(Sender, "_close", no_quarantine),
    "the sender does not release when it fails": altered(
        Sender, "_close", without(ReleaseBlocks)),
    "the sender does not answer the rest of a grant": lambda patch: patch.setattr(
        Sender, "_answer_rest", lambda self: []),
    "the sender sends blocks that are not ready": ready_too_early,
    "the sender sends layers that are not computed": layers_too_early,
    "the sender sends layers of blocks that the step does not fill": blocks_not_begun,
    "the sender ends a quarantine with the first layers": lambda patch: patch.setattr(
        Sender, "_read", lambda self: set()),
    "the receiver ends a quarantine with the first layers": first_layers_end_quarantine,
    "a step that fails gives back what is being sent": forget_at_once,
    "the sender is deaf to a second revoke": deaf_to_a_second_revoke,
    "the sender does not dial again": lambda patch: patch.setattr(debts, "DEBT_SECONDS", 0.0),
    "the sender does not answer a late grant": forget_late_grants,
    "the sender never seals a loan of fewer blocks": altered(
        Sender, "_post", lambda machine, actions: [
            each for each in actions if not isinstance(each, PostSend) or each.blocks]),
}


def run_storms(count: int) -> None:
    for seed in range(count):
        Storm(seed).run()


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_rule_is_noticed(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    BROKEN[what](monkeypatch)
    with pytest.raises(AssertionError, match="storm") as caught:
        run_storms(6000)
    assert isinstance(caught.value.__cause__, AssertionError), "an invariant, not a crash"
