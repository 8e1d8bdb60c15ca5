"""Pictures, the report and the page, of results that are committed and some that are made up."""

from __future__ import annotations

import math
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import pytest

from baton.bench.compare.cells import Cell
from baton.bench.plots.command import main
from baton.bench.plots.drawing import bars, canvas, save
from baton.bench.plots.html import write_report
from baton.bench.plots.page import page, read_all
from baton.bench.plots.pictures import pictures
from baton.bench.plots.tables import criteria, tables
from baton.bench.results import Result, Row, append
from baton.protocol.errors import ConfigError

ROOT = Path(__file__).parents[2]
RAN = {"cpu": "a CPU", "cores": 2, "python": "3", "torch": "2", "commit": "abc",
       "command": "baton bench x <&>", "when": "2026-11-21T19:00:00+00:00"}


def point(layout: str, rate: float, repetition: int, goodput: float) -> dict[str, object]:
    figures = {"goodput_per_s": goodput, "attainment": goodput / rate, "ttft_mean_ms": 300.0,
               "output_tokens_per_s": 99.0}
    for name in ("ttft", "itl"):
        figures |= {f"{name}_p50_ms": 20.0 * rate, f"{name}_p99_ms": 90.0 * rate}
    return {"layout": layout, "family": layout.split()[0], "rate": rate, "repetition": repetition,
            "seed": 1, "figures": figures, "ends": {"length": 9}, "phases": {}}


@pytest.fixture
def comparison() -> Result:
    points = [point(layout, rate, n, share * rate - 0.01 * n)
              for rate in (1.0, 2.0) for n in range(3)
              for layout, share in (("colocated 256", 0.6), ("split 1+1", 0.9))]
    return Result(
        bench="compare", ran=RAN,
        settings={"load": "512/64", "ttft": 0.5, "itl": 0.04, "attainment": 0.9, "repeat": 3},
        metrics={
            "verdict": ["Disaggregation wins at 1, 2 requests/s."],
            "capacity_per_s": {
                "colocated 256": {"mid": 1.0, "low": 0.9, "high": 1.1, "count": 3},
                "split 1+1": {"mid": 1.6, "low": None, "high": None, "count": 1},
            },
        },
        rows=[Row("ratio | of two", ">= 1.5", "1.5", True), Row("other", "<= 1", "2", False)],
        series={"points": points, "tuning": points[:2]},
    )


@pytest.fixture
def drawn_map() -> Result:
    cells = [
        Cell(prompt=p, output=o, load=load, rate=1.0, ttft=1.0, itl=0.1, planned=p / 400,
             measured=p / 300, best="split 1+1", best_colocated="colocated",
             goodput={"split 1+1": 1.0})
        for p in (128, 1024) for o in (16, 128) for load in (0.6, 0.9)
    ]
    return Result(
        bench="map", ran=RAN, settings={"workers": 2, "machine": "m", "real": True},
        metrics={"places": 8, "on_the_same_side": 8},
        series={"cells": [msgspec.to_builtins(cell) for cell in cells]},
    )


def texts(svg: Path) -> str:
    """All that is written in a picture."""
    return " ".join("".join(e.itertext()) for e in ElementTree.parse(svg).iter()
                    if e.tag.endswith("}text"))


def test_a_page_and_a_report_name_versions_that_matter(
    comparison: Result, tmp_path: Path
) -> None:
    """Of what carries bytes, and of peers."""
    made = msgspec.structs.replace(
        comparison, ran={**RAN, "versions": {"ucxx": "0.52", "vllm": "0.32", "numpy": "2"}},
        settings={**comparison.settings, "layouts": {"vllm": "http://x"}},
    )
    write_report([made], tmp_path / "report.html")
    for text in (page([made], []), (tmp_path / "report.html").read_text()):
        assert "torch 2, ucxx 0.52, vllm 0.32, commit abc" in text


def test_an_end_to_end_target_is_told(comparison: Result, tmp_path: Path) -> None:
    made = msgspec.structs.replace(comparison, settings={**comparison.settings, "e2e": 2.5})
    assert "targets 500 ms and 40 ms (2500 ms to the last token)" in page([made], [])
    save(next(p.figure for p in pictures([made]) if p.name.endswith("goodput")), tmp_path / "x.svg")
    assert "E2E 2500 ms" in texts(tmp_path / "x.svg")


def test_places_that_are_open_have_a_question_mark(drawn_map: Result, tmp_path: Path) -> None:
    cells = [{**cell, "won": 0 if cell["prompt"] == 128 else 1}
             for cell in drawn_map.series["cells"]]
    made = msgspec.structs.replace(drawn_map, series={"cells": cells})
    (drawn,) = pictures([made])
    save(drawn.figure, tmp_path / "x.svg")
    shown = texts(tmp_path / "x.svg")
    assert shown.count("0.43?") == 4
    assert "3.41?" not in shown


def test_the_page_is_as_the_committed_results_make_it() -> None:
    """`baton bench plot --page` writes it."""
    results = read_all(ROOT / "bench" / "results")
    drawn = list(pictures(results))
    assert (ROOT / "docs" / "benchmarks.md").read_text() == page(results, drawn)
    there = {path.stem for path in (ROOT / "docs" / "benchmarks").glob("*.svg")}
    assert there == {picture.name for picture in drawn}


def test_a_comparison_has_three_pictures_that_name_all(tmp_path: Path, comparison: Result) -> None:
    append(tmp_path / "c.jsonl", comparison)
    assert main([str(tmp_path / "c.jsonl"), "--out", str(tmp_path)]) == 0
    names = {path.name for path in tmp_path.glob("*.svg")}
    assert names == {f"compare-512-64-{kind}.svg" for kind in ("frontier", "goodput", "capacity")}
    for name in names:
        written = texts(tmp_path / name)
        assert "colocated 256" in written
        assert "split 1+1" in written
        assert "abc" in written, "the commit"


def test_without_capacities_there_is_no_picture_of_them(comparison: Result) -> None:
    comparison.metrics["capacity_per_s"] = {}
    assert [picture.name for picture in pictures([comparison])] == [
        "compare-512-64-frontier", "compare-512-64-goodput"
    ]


def test_two_results_of_one_name_are_two_pictures(comparison: Result) -> None:
    names = [picture.name for picture in pictures([comparison, comparison])]
    assert len(set(names)) == len(names) == 6
    assert "compare-512-64-goodput-2" in names


def test_the_same_result_gives_the_same_bytes(tmp_path: Path, comparison: Result) -> None:
    for name in ("a.svg", "b.svg"):
        save(next(pictures([comparison])).figure, tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_a_map_shows_each_place_measured_and_planned(tmp_path: Path, drawn_map: Result) -> None:
    (picture,) = pictures([drawn_map])
    save(picture.figure, tmp_path / "m.svg")
    written = texts(tmp_path / "m.svg")
    assert picture.name == "map-real-winners"
    assert "3.41" in written
    assert "(2.56)" in written
    assert "load 0.9" in written
    drawn_map.series["cells"] = drawn_map.series["cells"][:1]
    assert not list(pictures([drawn_map])), "one place is no map"


def test_predicted_and_measured_of_any_bench(tmp_path: Path) -> None:
    pairs = [{"what": "a", "predicted": 1.0, "measured": 1.1, "group": "ttft"},
             {"what": "b", "predicted": 0.0, "measured": 1.1, "group": "itl"}]
    result = Result(bench="planner", ran=RAN, series={"predicted": pairs})
    (picture,) = pictures([result])
    save(picture.figure, tmp_path / "p.svg")
    assert "ttft" in texts(tmp_path / "p.svg")
    assert "itl" not in texts(tmp_path / "p.svg")


def test_a_report_is_one_file_with_everything_in_it(tmp_path: Path, comparison: Result) -> None:
    append(tmp_path / "c.jsonl", comparison)
    main([str(tmp_path / "c.jsonl"), "--html", str(tmp_path / "r.html")])
    report = (tmp_path / "r.html").read_text()
    assert report.count("<svg") == 3
    assert "Disaggregation wins at 1, 2" in report
    assert "baton bench x &lt;&amp;&gt;" in report
    assert "src=" not in report


def test_tables_are_means_over_repetitions(comparison: Result) -> None:
    (table,) = tables([comparison])
    assert len(table.lines) == 4
    assert table.lines[0][:4] == ("colocated 256", "1", "0.59", "59.0%")
    assert [line[3] for line in criteria([comparison]).lines] == ["yes", "**no**"]


def test_the_page_keeps_its_tables_whole(comparison: Result) -> None:
    text = page([comparison], list(pictures([comparison])))
    assert "> Disaggregation wins at 1, 2 requests/s." in text
    assert "ratio \\| of two" in text
    assert "![compare 512 64 goodput](benchmarks/compare-512-64-goodput.svg)" in text
    assert "commit abc, 2026-11-21:\n\n    baton bench x <&>" in text


def test_kinds_that_nobody_knows_show_their_figures() -> None:
    result = Result(bench="new", ran=RAN, settings={"n": 3},
                    metrics={"a": {"b_ms": 1.23456}, "c": None, "d": math.nan, "e": [1]})
    (table,) = tables([result])
    assert table.title == "n 3"
    assert table.lines == [("a, b ms", "1.235"), ("c", "None"), ("d", "-")]


def test_bars_leave_out_what_is_not_there(tmp_path: Path) -> None:
    figure, (axes,) = canvas("t", RAN)
    bars(axes, ["a", "b"], {"x": [1.0, None], "y": [2.0, 3.0]})
    assert [bar.get_height() for bar in axes.patches] == [1.0, 0.0, 2.0, 3.0]
    with pytest.raises(ConfigError, match=r"\.svg or \.png"):
        save(figure, tmp_path / "x.pdf")
    save(figure, tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_no_results_are_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no results"):
        read_all(tmp_path)
