"""Units of options: what is typed without one is told what to type."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

import pytest

from baton.bench import profile, simulation
from baton.bench.compare import command as compare
from baton.bench.compare import map as maps
from baton.bench.durations import duration, share
from baton.bench.planning import command as planning
from baton.bench.routing import trace
from baton.bench.serve import command as serve
from baton.protocol.errors import ConfigError

Main = Callable[[Sequence[str]], int]
COMMANDS: dict[str, tuple[Main, tuple[str, ...]]] = {
    "serve": (serve.main, ("http://127.0.0.1:1", "--rate", "1")),
    "compare": (compare.main, ()),
    "map": (maps.main, ("--prompts", "64", "--outputs", "8")),
    "simulator": (simulation.main, ("trace.jsonl",)),
    "routing trace": (trace.main, ("trace.jsonl",)),
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("option", ["--ttft", "--itl"])
def test_a_target_without_a_unit_is_told_its_units(
    command: str, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    main, others = COMMANDS[command]
    with pytest.raises(SystemExit) as ended:
        main([*others, option, "300"])
    assert ended.value.code == 2
    assert f"argument {option}: '300' needs a unit: 300ms, 2s" in capsys.readouterr().err


@pytest.mark.parametrize(("main", "arguments"), [
    (profile.main, ["--seconds", "30"]),
    (serve.main, ["http://127.0.0.1:1", "--rate", "1", "--duration", "30"]),
    (serve.main, ["http://127.0.0.1:1", "--rate", "1", "--warmup", "30"]),
    (serve.main, ["http://127.0.0.1:1", "--rate", "1", "--timeout", "30"]),
    (compare.main, ["--warm-up", "30"]),
    (simulation.main, ["trace.jsonl", "--start", "30"]),
    (trace.main, ["trace.jsonl", "--warm-up", "30"]),
])
def test_every_duration_is(
    main: Main, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(arguments)
    assert "'30' needs a unit: 30ms, 2s" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--ttft", "--itl", "--e2e"])
def test_a_plan_says_it_as_its_other_mistakes(option: str) -> None:
    with pytest.raises(ConfigError, match=f"{option}: '300' needs a unit: 300ms, 2s"):
        planning.main(["--hardware", "made", "--gpus", "2", "--workload", "chat", option, "300"])


@pytest.mark.parametrize(("main", "arguments"), [
    (serve.main, ["http://127.0.0.1:1", "--rate", "1", "--cancel"]),
    (serve.main, ["http://127.0.0.1:1", "--rate", "1", "--shared"]),
    (compare.main, ["--attainment"]),
])
def test_shares_are_told_too(
    main: Main, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    for text, said in (("some", "write 5% or 0.05"), ("5", "such as 5%"), ("120%", "100%")):
        with pytest.raises(SystemExit):
            main([*arguments, text])
        assert said in capsys.readouterr().err


def test_what_they_are_worth() -> None:
    assert (duration("300ms"), duration("2s"), duration("0s")) == (0.3, 2.0, 0.0)
    assert (share("5%"), share("0.05"), share("100%"), share("0")) == (0.05, 0.05, 1.0, 0.0)
    for text in ("soon", "-1s", "3 days", "nan"):
        with pytest.raises(argparse.ArgumentTypeError, match="300ms"):
            duration(text)
    for text in ("nan", "", "%", "-0.1", "101%"):
        with pytest.raises(argparse.ArgumentTypeError, match=r"5%|100%"):
            share(text)
