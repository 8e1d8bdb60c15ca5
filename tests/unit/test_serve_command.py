"""What a command line asks `baton bench serve` for, and what it refuses."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
from scripted_server import in_thread

from baton.bench.serve.asking import Asking
from baton.bench.serve.command import _options, main
from baton.bench.serve.load import check, load_of
from baton.bench.serve.traced import Omitted
from baton.bench.workloads.arrival import Arrival
from baton.protocol.errors import ConfigError
from baton.protocol.tokens import unpack_tokens


def load(*arguments: str, context: int | None = None) -> list[Arrival]:
    options = _options(["http://x", *arguments])
    check(options)
    return list(load_of(options, context))


def test_an_open_loop_of_stated_lengths() -> None:
    stream = load("--rate", "8", "--arrivals", "constant", "--prompt", "30", "--output", "7",
                  "--warmup", "1s", "--duration", "3s", "--ttft", "300ms", "--vocabulary", "90")
    assert [a.at for a in stream] == [n / 8 for n in range(1, 32)]
    assert {(len(a.prompt()) // 4, a.length) for a in stream} == {(30, 7)}
    assert stream[0].targets.ttft == 0.3
    assert max(max(unpack_tokens(a.prompt())) for a in stream) < 90


def test_so_many_requests() -> None:
    assert len(load("--rate", "3", "--requests", "25")) == 25
    assert len(load("--concurrency", "4", "--requests", "25", "--turns", "4")) == 25
    assert len(load("--concurrency", "4", "--duration", "60s")) > 4000


def test_a_trace_at_its_own_times_faster_or_at_a_rate(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    lines = [f"{10 + 2 * n},{50 + n},5" for n in range(100)]
    path.write_text("\n".join(["arrived_at,num_prefill_tokens,num_decode_tokens", *lines]))
    trace = ("--trace", str(path), "--concurrency", "1", "--requests", "999")
    assert len(load(*trace)) == 100
    whole = load("--trace", str(path), "--warmup", "0s", "--duration", "40s")
    assert [a.at for a in whole] == [2.0 * n for n in range(20)]
    faster = load("--trace", str(path), "--speed", "4", "--warmup", "0s", "--duration", "10s")
    assert [a.at for a in faster] == [n / 2 for n in range(20)]
    scaled = load("--trace", str(path), "--rate", "5", "--warmup", "0s", "--duration", "10s")
    assert [a.at for a in scaled] == pytest.approx([n / 5 for n in range(50)])
    short = load("--trace", str(path), "--rate", "5", "--duration", "10s", "--longest", "99")
    assert max(len(a.prompt()) // 4 for a in short) == 99


@pytest.mark.parametrize(("arguments", "said"), [
    ([], "give --rate"),
    (["--rate", "1", "--concurrency", "2"], "give one"),
    (["--rate", "1", "--workload", "no"], "no workload 'no'; there are: chat"),
    (["--rate", "1", "--workload", "chat", "--trace", "x"], "give one"),
    (["--rate", "1", "--speed", "2", "--trace", "x"], "give one"),
    (["--rate", "1", "--arrivals", "uniform"], "none of: poisson"),
    (["--rate", "1", "--arrivals", "gamma:-1"], "none of: poisson"),
    (["--rate", "1", "--prompt", "500"], "does not hold"),
    (["--rate", "1", "--trace", "/nowhere"], "cannot read the trace"),
])
def test_what_does_not_go_together_is_said(arguments: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load(*arguments, context=512)


def test_answers_fit_the_context() -> None:
    stream = load("--rate", "20", "--workload", "chat", context=400)
    assert max(a.length for a in stream) == 200
    assert max(len(a.prompt()) // 4 for a in stream) <= 200


def test_names_and_no_url(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    assert "rag-long" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="give the URL"):
        main([])
    with pytest.raises(ConfigError, match="does not answer with a model"):
        main(["http://127.0.0.1:1", "--rate", "1"])
    with pytest.raises(ConfigError, match="--extra is no JSON"):
        main(["http://127.0.0.1:1", "--rate", "1", "--extra", "{"])


def test_paced_workers_are_told_by_the_seed() -> None:
    arrival = Arrival(0.0, lambda: b"", 7, 50, 3, lane="batch")
    plain = msgspec.json.decode(Asking().body("m", [1], arrival))
    paced = msgspec.json.decode(Asking(scripted=True).body("m", [1], arrival))
    assert (plain["max_tokens"], plain["ignore_eos"]) == (7, True)
    assert (paced["max_tokens"], paced["seed"] >> 32, "ignore_eos" in paced) == (50, 7, False)
    assert Asking(api_key="k").headers(arrival)["authorization"] == "Bearer k"
    assert Asking().headers(arrival)["x-baton-lane"] == "batch"
    extra = Asking(extra={"temperature": 1, "top_k": 3}, without=frozenset({"ignore_eos"}))
    fields = msgspec.json.decode(extra.body("m", [1], arrival))
    assert (fields["temperature"], fields["top_k"], "ignore_eos" in fields) == (1, 3, False)


# -- traces ----------------------------------------------------------------------------------


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """One a second; every fourth prompt has 20,000 tokens, every fifth answer 2,000."""
    path = tmp_path / "trace.csv"
    lines = [f"{n},{20_000 if n % 4 == 3 else 100 + n},{2000 if n % 5 == 4 else 6}"
             for n in range(100)]
    path.write_text("\n".join(["arrived_at,num_prefill_tokens,num_decode_tokens", *lines]))
    return path


def of_trace(
    path: Path, *arguments: str, context: int | None = None
) -> tuple[list[Arrival], Omitted]:
    options = _options(["http://x", "--trace", str(path), "--warmup", "0s", *arguments])
    check(options)
    omitted = Omitted()
    return list(load_of(options, context, omitted)), omitted


def test_a_trace_is_what_it_was(trace: Path) -> None:
    """Nothing says that this server could not take it."""
    stream, omitted = of_trace(trace, "--duration", "100s")
    assert len(stream) == 100
    assert max(len(a.prompt()) // 4 for a in stream) == 20_000
    assert max(a.length for a in stream) == 2000
    assert omitted.to_dict() == {"due": 100, "left_out": 0, "cut": 0}
    assert omitted.warnings() == []


def test_what_the_model_cannot_take_is_left_out_and_told(trace: Path) -> None:
    stream, omitted = of_trace(trace, "--duration", "50s", context=2_150)
    assert all(len(a.prompt()) // 4 + a.length <= 2150 for a in stream)
    assert max(a.length for a in stream) == 2000, "cut is what has no room, not what is long"
    assert (len(stream), omitted.due, omitted.left_out) == (50 - 12, 50, 12)
    (said,) = omitted.warnings()
    assert said == ("12 of 50 requests of the trace (24.0%) were left out: prompt and answer fit a "
                    "context of 2,150")


def test_options_cut_a_trace_and_that_is_told(trace: Path) -> None:
    stream, omitted = of_trace(trace, "--requests", "30", "--longest", "1000", "--max-tokens", "64")
    assert len(stream) == 30
    assert max(a.length for a in stream) == 64
    # Of the first forty of the trace; the last of them that was asked for is the 38th.
    assert (omitted.due, omitted.left_out, omitted.cut) == (39, 9, 6)
    left, cut = omitted.warnings()
    assert "--longest 1,000, --max-tokens 64" in left
    assert cut.startswith("answers of 6 of 39 requests of the trace were cut")


def test_a_scaled_trace_is_at_its_rate_without_what_is_left_out(trace: Path) -> None:
    stream, _ = of_trace(trace, "--rate", "10", "--duration", "5s", context=8000)
    gaps = [b.at - a.at for a, b in pairwise(stream)]
    assert len(stream) == pytest.approx(50, abs=2)
    assert sum(gaps) / len(gaps) == pytest.approx(0.1, rel=0.05)


def test_paced_answers_have_room_for_the_longest(trace: Path) -> None:
    """Their length is in the seed; what the server must have room for is the limit."""
    stream, _ = of_trace(trace, "--duration", "100s", "--scripted", context=2_150)
    assert {a.limit for a in stream} == {2000}
    assert all(len(a.prompt()) // 4 + a.limit <= 2150 for a in stream)


@pytest.mark.parametrize(("arguments", "said"), [
    (("--longest", "50"), r"none of 100 requests from 0 s on can be asked for \(--longest 50\)"),
    (("--start", "5m"), "ends before 300 s"),
])
def test_a_trace_of_which_nothing_is_left(
    trace: Path, arguments: tuple[str, ...], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        of_trace(trace, *arguments)


@pytest.mark.parametrize(("arguments", "said"), [
    (["--workload", "chat", "--prompt", "100"], "--prompt has no meaning beside --workload"),
    (["--workload", "chat", "--output", "9", "--turns", "2"],
     "--output, --turns have no meaning beside --workload: leave them out"),
    (["--workload", "chat", "--shared", "50%"], "--shared has"),
    (["--workload", "chat", "--spread", "0"], "--spread has"),
    (["--workload", "chat", "--groups", "1"], "--groups has"),
    (["--trace", "x", "--lengths", "0.5"], "--lengths has no meaning beside --trace"),
    (["--trace", "x", "--prompt", "512"], "--prompt has no meaning beside --trace"),
    (["--trace", "x", "--arrivals", "poisson"], "--arrivals has no meaning beside --trace"),
])
def test_an_option_that_would_be_ignored_is_named(arguments: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load("--rate", "1", *arguments)
    with pytest.raises(ConfigError, match="--arrivals has no meaning beside --concurrency"):
        load("--concurrency", "1", "--arrivals", "poisson")


def test_what_was_left_out_is_in_the_result(
    trace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with in_thread() as url:
        arguments = [url, "--trace", str(trace), "--requests", "20", "--speed", "1000", "--warmup",
                     "0s", "--quiet"]
        assert main([*arguments, "--json"]) == 0
        metrics = json.loads(capsys.readouterr().out)["metrics"]
        assert main(arguments) == 0
        assert "requests of the trace (23.1%) were left out" in " ".join(
            capsys.readouterr().out.split())
    assert metrics["requests"] == 20
    assert metrics["trace"] == {"due": 26, "left_out": 6, "cut": 0}
    assert "6 of 26 requests of the trace" in metrics["warnings"][0]
