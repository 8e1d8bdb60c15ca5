"""`baton bench compare` with servers that are made up: layouts by name decide how fast they are."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from baton.bench.compare import agreement, command
from baton.bench.compare import options as reading
from baton.bench.compare.layouts import Layout
from baton.bench.compare.options import Chosen
from baton.bench.compare.running import LayoutFailed, Running
from baton.bench.results import Result, read
from baton.bench.serve import figures
from baton.bench.serve.lag import ClientLag
from baton.bench.serve.seen import Seen
from baton.bench.serve.served import Served
from baton.bench.workloads.arrival import Arrival
from baton.protocol.errors import ConfigError
from baton.router.account import Account, Attempt

TTFT = {"colocated 128": 0.3, "colocated 512": 0.2, "colocated": 0.25, "split 1+1": 0.4}
GAP = {"colocated 128": 0.03, "colocated 512": 0.08, "colocated": 0.03, "split 1+1": 0.01}
LIMIT = {"colocated 128": 1.0, "colocated 512": 0.8, "colocated": 0.9, "split 1+1": 2.0}
"""Requests per second, from which on all are late."""


class Servers:
    def __init__(
        self, changed: str = "", fails: tuple[tuple[str, int], ...] = (), stopped: int = 0
    ) -> None:
        self.changed = changed
        """The layout that answers something else."""
        self.fails = fails
        """(layout, which of its starts, from 1 on) that fail."""
        self.stopped = stopped
        """Which of all loads, from 1 on, meets a Ctrl-C."""
        self.started: list[str] = []
        self._now = ""
        self._accounts: list[Account] = []

    @contextmanager
    def start(self, layout: Layout) -> Iterator[Running]:
        self.started.append(layout.name)
        if (layout.name, self.started.count(layout.name)) in self.fails:
            raise LayoutFailed(layout.name, "it did not start:\nTraceback\nOSError: no memory\n")
        self._now, self._accounts = layout.name, [_account(-1.0)]  # what asked first
        running = Running("http://nowhere", "m")
        yield running
        running.accounts += self._accounts

    async def serve(
        self, url: str, arrivals: Iterable[Arrival], *, model: str, warmup: float, seconds: float,
        give_up: float | None = None, e2e: float | None = None,
    ) -> Served:
        if len(self.started) == self.stopped:
            signal.raise_signal(signal.SIGINT)
            await asyncio.sleep(3600)
        stream = list(arrivals)
        rate = len(stream) / (warmup + seconds)
        late = rate > LIMIT[self._now]
        requests = []
        for number, arrival in enumerate(stream):
            ttft = TTFT[self._now] * (10 if late else 1)
            ids = [7] * arrival.length
            if number % 3 == 0 and self._now == self.changed:
                ids[2] = 8
            pieces = [ttft + n * GAP[self._now] for n in range(arrival.length)]
            requests.append(Seen(
                number, "", "", "", arrival.targets, arrival.at, 4, arrival.length,
                sent=arrival.at, outcome="length", pieces=pieces, counts=[1] * len(pieces),
                ended=arrival.at + pieces[-1], ids=ids,
            ))
            self._accounts.append(_account(arrival.at, prefill=ttft / 2))
        return Served(requests=requests, warmup=warmup, end=warmup + seconds, wall=1.0,
                      client=ClientLag(), server=None)  # type: ignore[arg-type]


def _account(at: float, prefill: float = 99.0) -> Account:
    attempt = Attempt(at=0.0, route="local", reason="x", decode="d")
    return Account(id="a", arrived=at, lane="x", prompt_tokens=1, max_tokens=1, queue=0.01,
                   attempts=(attempt,), ttft=2 * prefill, phases={"queue": 0.0, "prefill": prefill},
                   outcome="completed")


def compare(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, servers: Servers, *arguments: str
) -> tuple[int, Result]:
    usual = reading.choose

    def choose(options: Any) -> Chosen:
        chosen = usual(options)
        return Chosen(chosen.layouts, chosen.load, servers.start, servers.serve, chosen.wants,
                      versions={"vllm": "0.32"})

    monkeypatch.setattr(reading, "choose", choose)
    file = tmp_path / "c.jsonl"
    code = command.main([
        "--paced", "none", "--load", "16/8", "--seconds", "60", "--warm-up", "5s", "--repeat", "2",
        "--chunks", "128", "512", "--ttft", "1s", "--itl", "50ms", "--json", str(file), *arguments,
    ])
    return code, read(file)[-1]


def test_all_of_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Tuned, searched, repeated around the colocated capacity, judged and explained."""
    servers = Servers()
    code, result = compare(monkeypatch, tmp_path, servers, "--start", "0.5",
                           "--want", "split 1+1: goodput_per_s >= 1 * colocated")
    capacity = {name: each["mid"] for name, each in result.metrics["capacity_per_s"].items()}
    assert list(capacity) == ["colocated 128", "split 1+1", "auto"]
    assert 0.8 < capacity["colocated 128"] <= 1.1
    assert 1.6 < capacity["split 1+1"] <= 2.2
    ratio = result.metrics["capacity_ratio"][0]
    assert (ratio["ours"], ratio["theirs"]) == ("split 1+1", "colocated 128")
    assert 1.4 < ratio["mid"] < 2.6
    assert ratio["low"] < ratio["mid"] < ratio["high"]
    assert result.ran["versions"]["vllm"] == "0.32"
    highest = max(point["rate"] for point in result.series["points"])
    verdict = " ".join(result.metrics["verdict"])
    assert f"Disaggregation wins at {highest:g} requests/s" in verdict
    assert "infinitely many times as many requests in time (100.0% against 0.0%)" in verdict
    assert "computing the prompt" in verdict
    phases = result.series["points"][0]["phases"]["ttft_ms"]
    assert phases["prefill"] == pytest.approx(150.0), "the first question is no part of it"
    assert code == 0


@pytest.fixture(autouse=True)
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here is judged by the intervals within a run."""
    monkeypatch.setattr(figures, "_DRAWS", 50)


@pytest.fixture(autouse=True)
def auto_is_the_split(monkeypatch: pytest.MonkeyPatch) -> None:
    for table in (TTFT, GAP, LIMIT):
        monkeypatch.setitem(table, "auto", table["split 1+1"])


def test_what_is_wanted_and_does_not_hold_ends_with_1(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    code, result = compare(
        monkeypatch, tmp_path, Servers(), "--rates", "0.5", "--no-tuning",
        "--layout", "colocated 128", "--layout", "split 1+1",
        "--want", "split 1+1: ttft_p50_ms <= 1 * colocated",
        "--want", "split 1+1: itl_p50_ms <= 0.5 * colocated",
    )
    assert code == 1
    assert [row.holds for row in result.rows[-2:]] == [False, True]


@pytest.mark.parametrize(("gap", "tie", "code"), [(1e-5, 5, 0), (1.0, 0, 1)])
def test_other_answers_are_near_ties_or_changed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, gap: float, tie: int, code: int
) -> None:
    asked: list[Sequence[int]] = []

    def two_best(url: str, ids: Sequence[int]) -> tuple[tuple[int, int], float]:
        asked.append(ids)
        return (7, 8), gap

    monkeypatch.setattr(agreement, "two_best", two_best)
    servers = Servers(changed="split 1+1")
    got, result = compare(
        monkeypatch, tmp_path, servers, "--rates", "0.2", "--no-tuning", "--dtype", "float32",
        "--layout", "colocated 128", "--layout", "split 1+1",
    )
    answers = result.metrics["answers"]["split 1+1"]
    assert got == code
    assert answers["ties"] + answers["changed"] == len(asked) >= 3
    assert bool(answers["ties"]) == (tie > 0)
    assert all(list(ids)[-2:] == [7, 7] and len(ids) == 18 for ids in asked), "prompt and 2 tokens"
    assert servers.started[-1] == "colocated 128", "started once more, to be asked"


TWO = ("--rates", "0.5", "--no-tuning", "--layout", "colocated 128", "--layout", "split 1+1")


def test_an_end_to_end_target_counts_as_the_others_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Eight tokens take 0.3 + 7 * 0.03 s colocated and 0.4 + 7 * 0.01 s split; all are within the
    other targets."""
    _, result = compare(monkeypatch, tmp_path, Servers(), *TWO, "--e2e", "490ms", "--repeat", "4")
    attained = {p["layout"]: p["figures"]["attainment"] for p in result.series["points"]}
    assert attained == {"colocated 128": 0.0, "split 1+1": 1.0}
    assert result.settings["e2e"] == 0.49
    assert "Disaggregation wins at 0.5" in " ".join(result.metrics["verdict"])


def test_a_start_that_fails_costs_its_own_run_only(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    servers = Servers(fails=(("split 1+1", 2),))
    code, result = compare(monkeypatch, tmp_path, servers, *TWO, "--repeat", "3")
    assert code == 1
    runs = [(p["layout"], p["repetition"]) for p in result.series["points"]]
    assert sorted(runs) == [("colocated 128", 0), ("colocated 128", 1), ("colocated 128", 2),
                            ("split 1+1", 0), ("split 1+1", 2)]
    (failed,) = result.metrics["failed"]
    assert (failed["layout"], failed["repetition"], failed["rate"]) == ("split 1+1", 1, 0.5)
    assert "no memory" in failed["why"]
    assert result.metrics["verdict"][0] == (
        "NOT ALL WAS MEASURED: split 1+1 failed 1 times, first for a run: it did not start: "
        "OSError: no memory."
    )
    assert [row.what for row in result.rows if not row.holds] == ["runs of split 1+1"]


def test_who_failed_twice_is_not_tried_again_and_the_others_are_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Also while it is tuned and searched for; a family without anybody is none."""
    servers = Servers(fails=tuple(("split 1+1", n) for n in range(1, 99)))
    code, result = compare(monkeypatch, tmp_path, servers, "--start", "0.5", "--repeat", "3")
    assert code == 1
    assert servers.started.count("split 1+1") == 2
    assert set(result.metrics["capacity_per_s"]) == {"colocated 128", "auto"}
    assert {p["layout"] for p in result.series["points"]} == {"colocated 128", "auto"}


def test_where_nothing_can_be_measured_there_is_no_result(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    servers = Servers(fails=tuple((name, n) for name in ("colocated 128", "split 1+1")
                                  for n in (1, 2)))
    with pytest.raises(ConfigError, match="nothing could be measured; colocated 128: it did not"):
        compare(monkeypatch, tmp_path, servers, *TWO)
    assert not (tmp_path / "c.jsonl").exists()


def test_ctrl_c_keeps_the_runs_that_ended(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the midst of the second repetition. Answers differ, and nobody is started to be asked."""
    servers = Servers(changed="split 1+1", stopped=4)
    code, result = compare(monkeypatch, tmp_path, servers, *TWO, "--repeat", "3",
                           "--want", "split 1+1: ttft_p50_ms >= 1 * colocated")
    assert code == 130
    assert len(servers.started) == 4
    runs = [(p["layout"], p["repetition"]) for p in result.series["points"]]
    assert runs == [("colocated 128", 0), ("split 1+1", 0), ("split 1+1", 1)]
    assert result.metrics["ended_early"] == "Ctrl-C after 3 of at most 6 runs"
    assert result.metrics["verdict"][0].startswith("ENDED EARLY, Ctrl-C after 3 of at most 6 runs")
    assert result.metrics["answers"]["split 1+1"]["unchecked"] > 0
    row, wanted = result.rows[0], result.rows[-1]
    assert (row.what, row.holds) == ("measurement", False)
    assert not wanted.holds, "of one pair no interval is known"
    assert capsys.readouterr().out.rstrip().endswith(
        "ended early: Ctrl-C after 3 of at most 6 runs"
    )


@pytest.mark.parametrize(("stopped", "tuning", "searches"), [(2, 1, 0), (16, 7, 1)],
                         ids=["tuning", "searching"])
def test_ctrl_c_keeps_what_was_tuned_and_searched(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stopped: int, tuning: int, searches: int
) -> None:
    code, result = compare(monkeypatch, tmp_path, Servers(stopped=stopped), "--start", "0.5")
    assert code == 130
    assert result.series["points"] == []
    assert len(result.series["tuning"]) >= tuning
    assert len(result.metrics["capacity_per_s"]) == searches


def test_ctrl_c_before_anything_was_measured_leaves_no_result(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        compare(monkeypatch, tmp_path, Servers(stopped=1), *TWO)
    assert not (tmp_path / "c.jsonl").exists()


@pytest.mark.parametrize("not_starting", [True, False], ids=["does not start", "does not answer"])
def test_answers_that_nobody_can_be_asked_about_are_not_looked_at(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, not_starting: bool
) -> None:
    def nobody(url: str, ids: Sequence[int]) -> tuple[tuple[int, int], float]:
        raise ConnectionResetError("gone")

    monkeypatch.setattr(agreement, "two_best", nobody)
    servers = Servers(changed="split 1+1", fails=(("colocated 128", 3),) if not_starting else ())
    code, result = compare(monkeypatch, tmp_path, servers, *TWO)
    answers = result.metrics["answers"]["split 1+1"]
    assert code == 1
    assert answers["unchecked"] > 0
    assert answers["ties"] == answers["changed"] == 0
    assert result.metrics["failed"][0]["doing"] == "answers"


@pytest.mark.parametrize(("want", "said"), [
    ("split 1+1: itl_p98_ms <= 1 * colocated", "no figure 'itl_p98_ms'; there are: requests"),
    ("split 2+2: itl_p99_ms <= 1 * colocated", "no layout 'split 2\\+2' is measured; there are"),
    ("split 1+1: itl_p99_ms <= 1 * vllm", "no layout 'vllm' is measured"),
    ("split 1+1: itl_p99_ms <= 1 * colocated 128", "only if it is the best of its family"),
    ("split 1+1: itl_p99_ms <= 1 * colocated @ 0.7", "0.7: not one of --rates"),
])
def test_what_is_wanted_is_checked_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, want: str, said: str
) -> None:
    servers = Servers()
    with pytest.raises(ConfigError, match=said):
        compare(monkeypatch, tmp_path, servers, "--rates", "0.5", "--want", want)
    assert servers.started == []


def test_one_repetition_has_no_interval_to_judge_by(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="--repeat 2"):
        compare(monkeypatch, tmp_path, Servers(), *TWO, "--repeat", "1",
                "--want", "split 1+1: itl_p99_ms <= 1 * colocated")


def test_the_first_rate_is_where_searching_begins_unless_it_is_said() -> None:
    assert reading.begin(reading.parse(["--rates", "3", "4"], None)) == 3.0
    assert reading.begin(reading.parse(["--rates", "3", "4", "--start", "1"], None)) == 1.0
    assert reading.begin(reading.parse([], None)) == 1.0


@pytest.mark.parametrize("option", ["--rates", "--start", "--seconds", "--lengths"])
@pytest.mark.parametrize("value", ["nan", "inf", "0", "-1"])
def test_numbers_are_finite_and_above_zero(
    option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        reading.parse([f"{option}={value}"], None)
    assert f"{option} must be above 0" in capsys.readouterr().err
