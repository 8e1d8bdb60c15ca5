"""The format of benchmark results, and that all committed ones are of it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from baton.bench.faults.command import as_result
from baton.bench.results import (
    SCHEMA,
    Result,
    Row,
    add_json,
    append,
    chosen,
    deliver,
    encode,
    found,
    latest,
    read,
)
from baton.protocol.errors import ConfigError

RESULTS = Path(__file__).parents[2] / "bench" / "results"
RAN = {"commit": "abc", "command": "baton bench x", "cpu": "c", "cores": 2, "torch": "2"}


def result(value: float = 1.0, **settings: object) -> Result:
    return Result(
        bench="x", ran=RAN, settings=settings, metrics={"value": value},
        rows=[Row("value", ">= 1", str(value), value >= 1)], series={"points": [[1, 2.5]]},
    )


def test_what_is_appended_is_read_again_in_order(tmp_path: Path) -> None:
    path = tmp_path / "new" / "x.jsonl"
    append(path, result(1.0))
    append(path, result(0.5, load=2))
    assert read(path) == [result(1.0), result(0.5, load=2)]
    assert path.read_bytes().count(b"\n") == 2


def test_the_last_of_the_same_settings_counts_at_the_place_of_the_first() -> None:
    results = [result(1, a=1, b=2), result(2, a=2), result(3, b=2, a=1)]
    assert [r.metrics["value"] for r in latest(results)] == [3, 2]


def test_an_infinite_figure_is_null_so_that_any_reader_takes_it() -> None:
    assert json.loads(encode(result(float("inf"))))["metrics"] == {"value": None}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"{", "x.jsonl:2 is no result"),
        (b'{"bench": 3, "ran": {}}', "x.jsonl:2 is no result"),
        (b'{"bench": "x", "ran": {}, "schema": %d}' % (SCHEMA + 1), f"has version {SCHEMA + 1}"),
    ],
)
def test_what_is_no_result_is_said_with_its_line(tmp_path: Path, line: bytes, said: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(encode(result()) + b"\n" + line + b"\n")
    with pytest.raises(ConfigError, match=said):
        read(path)


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match="cannot read /nonexistent"):
        read("/nonexistent")


def test_the_option_prints_or_appends(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path("a"))
    parser.add_argument("--jobs", type=int, default=1)
    add_json(parser)
    assert not deliver(result(), parser.parse_args([]).json)
    assert capsys.readouterr().out == ""
    assert deliver(result(), parser.parse_args(["--json"]).json)
    assert json.loads(capsys.readouterr().out)["bench"] == "x"
    options = parser.parse_args(["--json", str(tmp_path / "x.jsonl")])
    assert not deliver(result(), options.json)
    assert read(tmp_path / "x.jsonl") == [result()]
    assert chosen(options, "jobs") == {"rounds": 3, "folder": "a"}


def test_a_result_says_what_it_ran_on() -> None:
    ran = found("x", settings={}, versions={"numpy": "2"}).ran
    assert ran["versions"]["numpy"] == "2"
    assert all(ran["versions"][name] for name in ("ucxx", "libucx", "pyzmq"))
    assert {"commit", "command", "cpu", "cores", "python", "torch", "when"} <= ran.keys()


def test_each_fault_is_a_result_of_its_own() -> None:
    row = {"model": "tiny", "cluster": "two", "fault": "kill", "stall": 1.5, "held": False,
           "problems": ["lost one"], "late": ["slow"]}
    made = as_result(row, {"seed": 0}, RAN)
    assert made.settings == {"model": "tiny", "cluster": "two", "fault": "kill", "seed": 0}
    assert made.rows == [Row("kill", "held", "lost one; slow", False)]
    assert made.metrics["stall"] == 1.5


@pytest.mark.parametrize("path", sorted(RESULTS.iterdir()), ids=lambda path: path.name)
def test_committed_results_are_of_this_format(path: Path) -> None:
    if path.suffix == ".jsonl":
        results = read(path)
        assert results
        assert all(each.ran["commit"] and each.ran["command"] for each in results)
    else:
        assert path.suffix in (".png", ".svg"), f"{path.name} belongs elsewhere"
