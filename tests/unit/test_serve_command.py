"""What a command line asks `baton bench serve` for, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from baton.bench.serve.asking import Asking
from baton.bench.serve.command import _options, main
from baton.bench.serve.load import check, load_of
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
