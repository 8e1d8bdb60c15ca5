"""What the fault bench does to frames and links, and that its judge sees what went wrong."""

from __future__ import annotations

import socket
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from baton.bench.faults import judge as judging
from baton.bench.faults.chaos import ChaosSpec, Disturbance, Fate, told_in
from baton.bench.faults.judge import Oracle, Verdict
from baton.bench.faults.load import Ask, Seen
from baton.bench.faults.proxy import Links

ASKS = [Ask((5, 6, 7), 4), Ask((8, 9), 4)]
ANSWERS = [[1, 2, 3, 4], [5, 6, 7, 8]]


def seen(ids: list[int], **changes: Any) -> Seen:
    stream = Seen(sent=0.0, status=200, ids=ids, times=[0.1, 0.2, 1.7], finish="length", done=True)
    for name, value in changes.items():
        setattr(stream, name, value)
    return stream


@pytest.fixture
def oracle(monkeypatch: pytest.MonkeyPatch) -> Oracle:
    monkeypatch.setattr(judging, "two_best", lambda url, prompt: ((4, 99), 1e-6))
    return Oracle(ASKS, [seen(ids) for ids in ANSWERS])


def judge(oracle: Oracle, streams: list[Seen], **options: bool) -> Verdict:
    verdict = Verdict("test")
    oracle.judge("nowhere", verdict, streams, **options)
    return verdict


def test_the_same_answers_pass(oracle: Oracle) -> None:
    verdict = judge(oracle, [seen(ids) for ids in ANSWERS])
    assert verdict.held
    assert verdict.stall == pytest.approx(1.5)


@pytest.mark.parametrize(
    "ids", [[1, 2, 3], [1, 2, 3, 4, 4], [1, 2, 2, 3], [1, 9, 3, 4]],
    ids=["lost", "one too many", "repeated", "another"],
)
def test_a_wrong_answer_is_seen(ids: list[int], oracle: Oracle) -> None:
    verdict = judge(oracle, [seen(ids), seen(ANSWERS[1])])
    assert (verdict.changed, verdict.ties) == (1, 0)
    assert not verdict.held


def test_a_near_tie_is_told_apart(oracle: Oracle) -> None:
    verdict = judge(oracle, [seen([1, 2, 3, 99]), seen(ANSWERS[1])])
    assert (verdict.changed, verdict.ties) == (0, 1)
    assert verdict.held


def test_a_failed_request_is_seen_and_a_typed_error_may_be_allowed(oracle: Oracle) -> None:
    broken = seen([1, 2], done=False, finish=None, error="worker_lost", typed=True)
    assert not judge(oracle, [broken, seen(ANSWERS[1])]).held
    assert judge(oracle, [broken, seen(ANSWERS[1])], may_fail=True).held
    untyped = seen([1, 2], done=False, finish=None, error="ClientError")
    assert not judge(oracle, [untyped, seen(ANSWERS[1])], may_fail=True).held
    wrong = seen([1, 3], done=False, finish=None, error="worker_lost", typed=True)
    assert not judge(oracle, [wrong, seen(ANSWERS[1])], may_fail=True).held


class Wire:
    """What a disturbance sent, and what it put off."""

    def __init__(self, fate: Fate) -> None:
        self.sent: list[int] = []
        self.later: list[tuple[float, Callable[[], None]]] = []
        self._disturbance = Disturbance(
            fate, self._take, lambda delay, call: self.later.append((delay, call))
        )

    def send(self, number: int) -> None:
        assert self._disturbance.send([b"%d" % number])

    def wait(self) -> None:
        """Time passes until everything has been sent."""
        for _, call in sorted(self.later, key=lambda item: item[0]):
            call()

    def _take(self, parts: list[bytes]) -> bool:
        self.sent.append(int(parts[0]))
        return True


@pytest.mark.parametrize("kind", ["drop", "delay", "duplicate", "reorder"])
def test_each_kind_of_chaos_does_only_what_it_says(kind: str) -> None:
    fate = Fate(ChaosSpec(**{kind: 0.2}), seed=3)
    wire = Wire(fate)
    for number in range(1000):
        wire.send(number)
    wire.wait()
    assert 100 < fate.counts[kind] < 300
    struck = fate.counts[kind]
    copies = Counter(wire.sent)
    assert len(copies) == (1000 - struck if kind == "drop" else 1000)
    assert len(wire.sent) == {"drop": 1000 - struck, "duplicate": 1000 + struck}.get(kind, 1000)
    assert (wire.sent == sorted(wire.sent)) == (kind in ("drop", "duplicate"))
    if kind == "reorder":  # at most what came right behind overtakes a frame, one or a few
        assert max(abs(at - number) for at, number in enumerate(wire.sent)) < 10
    assert max((delay for delay, _ in wire.later), default=0.0) <= 2.0


def test_the_last_word_of_a_log_counts() -> None:
    log = 'W x frames so far: {"drop": 1}\nother\nW x frames so far: {"drop": 2}\n'
    assert told_in(log) == {"drop": 2}
    assert told_in("") == {}


def test_a_cut_link_carries_nothing_until_it_is_mended() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        links = Links()
        try:
            port = links.add("x", lambda: ("127.0.0.1", server.getsockname()[1]))
            with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
                there, _ = server.accept()
                with there:
                    there.settimeout(60)
                    client.sendall(b"before")
                    assert there.recv(16) == b"before"
                    links.cut("x")
                    client.sendall(b"meanwhile")
                    there.sendall(b"back")
                    arrived = threading.Event()

                    def read() -> None:
                        if there.recv(16) == b"meanwhile" and client.recv(16) == b"back":
                            arrived.set()

                    reader = threading.Thread(target=read)
                    reader.start()
                    assert not arrived.wait(0.3)
                    links.mend("x")
                    assert arrived.wait(60)
                    reader.join()
        finally:
            links.close()
