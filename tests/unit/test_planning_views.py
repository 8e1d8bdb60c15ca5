"""A plan as JSON, as commands, as HTML, in the terminal and in words."""

from __future__ import annotations

import argparse
import io
import json
import shlex
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import pytest
import typer
from planned import choice, kind, plan
from rich.console import Console

from baton.bench.planning.command import deliver
from baton.bench.planning.emit import commands
from baton.bench.planning.html import page, write_html
from baton.bench.planning.plan import (
    INFEASIBLE_CODE,
    Choice,
    Estimate,
    Infeasible,
    Nearest,
    Percentiles,
    encode,
    ms,
    read_plan,
)
from baton.bench.planning.table import show
from baton.bench.planning.verdict import tied, verdict
from baton.deploy.cli import app
from baton.protocol.errors import ConfigError
from baton.protocol.profile import Profile, encode_profile

COLOCATED = choice("colocated", {"mixed": 3}, capacity=6.0, half=0.5)
FAILED = Infeasible(
    constraint="ttft", text="alone they take 400 ms",
    nearest=[Nearest(change="ttft_ms", asked=300.0, possible=450.0, layout="3 mixed",
                     text="TTFT 450 ms instead of 300 ms, with 3 mixed")],
)


def parsed(line: str) -> dict[str, object]:
    """What the command line itself makes of a command."""
    name, command, *arguments = shlex.split(line, comments=True)
    assert name == "baton"
    group = typer.main.get_command(app)
    found = group.commands[command]  # type: ignore[attr-defined]
    return dict(found.make_context(command, arguments).params)


# -- JSON ------------------------------------------------------------------------------------


def test_a_plan_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    made = plan(infeasible=FAILED)
    path.write_bytes(encode(made))
    assert read_plan(path) == made
    assert made.code == INFEASIBLE_CODE == 2
    assert plan().code == 0


@pytest.mark.parametrize(("content", "said"), [
    (None, "cannot read"), (b"{}", "is no plan"), (b"[1", "is no plan"),
])
def test_what_is_no_plan(tmp_path: Path, content: bytes | None, said: str) -> None:
    path = tmp_path / "plan.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=said):
        read_plan(path)


def test_a_plan_of_another_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_bytes(encode(plan(format=99)))
    with pytest.raises(ConfigError, match="format 99; this Baton reads 1: plan again"):
        read_plan(path)


def test_an_old_plan_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    written = json.loads(encode(plan()))
    for entry in written["choices"]:
        del entry["divisor"]
    path.write_text(json.dumps(written))
    with pytest.raises(ConfigError, match=r"another version of Baton \(.*`divisor`.*plan again"):
        read_plan(path)


def test_what_never_ends_has_no_milliseconds() -> None:
    assert ms(float("inf")) is None
    assert ms(0.0123456) == 12.346


# -- commands --------------------------------------------------------------------------------


def test_one_machine_is_one_command_that_the_command_line_takes() -> None:
    *remarks, line = commands(plan(), "org/model")
    assert all(remark.startswith("#") for remark in remarks)
    options = parsed(line)
    assert options["model"] == "org/model"
    assert (options["prefill"], options["decode"], options["mixed"]) == (2, 1, None)
    assert (options["ttft"], options["itl"]) == (0.3, 0.02)
    assert options["strict_roles"] is True
    assert options["sizing"] == "dry-run"


def test_only_a_hybrid_lets_workers_cross_their_roles() -> None:
    options = parsed(commands(plan(COLOCATED), None)[-1])
    assert (options["prefill"], options["decode"], options["mixed"]) == (None, None, 3)
    assert options["strict_roles"] is True, "colocated: nothing is handed over"
    hybrid = choice("hybrid", {"prefill": 1, "mixed": 2})
    assert parsed(commands(plan(hybrid), None)[-1])["strict_roles"] is False


def test_large_batches_get_room() -> None:
    options = parsed(commands(plan(choice(batch=300)), None)[-1])
    assert options["max_running"] == 300
    assert options["max_batch_tokens"] > 300  # type: ignore[operator]
    middle = parsed(commands(plan(choice(batch=100)), None)[-1])
    assert (middle["max_running"], middle["max_batch_tokens"]) == (100, None)
    small = parsed(commands(plan(choice(batch=10)), None)[-1])
    assert (small["max_running"], small["max_batch_tokens"]) == (64, None)


def test_many_machines_are_a_router_and_its_workers() -> None:
    lines = commands(plan(choice(roles={"prefill": 6, "decode": 4})), "org/model")
    routers = [line for line in lines if line.startswith("baton router")]
    workers = [line for line in lines if line.startswith("baton worker")]
    assert (len(routers), len(workers)) == (1, 10)
    assert '"$BATON_API_KEY"' in routers[0]
    assert parsed(routers[0])["control"] == ["0.0.0.0:7777"]
    roles = [parsed(line)["role"] for line in workers]
    assert (roles.count("prefill"), roles.count("decode")) == (6, 4)
    assert len({parsed(line)["worker_id"] for line in workers}) == 10


def test_remarks_say_what_no_command_can(tmp_path: Path) -> None:
    profile = tmp_path / "here.json"
    profile.write_text("{}")
    text = "\n".join(commands(plan(infeasible=FAILED), None, [str(profile)]))
    assert "# this does not meet the targets: alone they take 400 ms" in text
    assert f"add --paced {profile}" in text
    assert "several devices" in commands(plan(choice(devices=2)), "m")[1]


@pytest.mark.parametrize(("measured", "named", "said"), [
    ("org/other-1b", "org/other-1b", ""), ("smollm2-135m-instruct", None, ""),
    ("my-directory", None, "was measured with my-directory: name its directory"),
])
def test_a_plan_of_a_profile_runs_its_model(
    tmp_path: Path, measured: str, named: str | None, said: str
) -> None:
    path = tmp_path / "here.json"
    path.write_bytes(encode_profile(Profile(
        model=measured, fingerprint="f", dtype="bfloat16", device="cpu", device_name="c",
        threads=1, block_size=16, curve=kind().machine.curve,
    )))
    *remarks, line = commands(plan(), None, [str(path)])
    assert parsed(line)["model"] == named
    assert said in "\n".join(remarks)
    assert ("name its directory" in "\n".join(remarks)) == bool(said)


# -- HTML ------------------------------------------------------------------------------------


def test_the_report_holds_its_plots_and_needs_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "new" / "report.html"
    write_html(plan(choice(), COLOCATED, infeasible=FAILED), path)
    text = path.read_text()
    plots = [f"<svg{part.partition('</svg>')[0]}</svg>" for part in text.split("<svg")[1:]]
    assert len(plots) == 4
    for plot in plots:
        ElementTree.fromstring(plot)
    for title in ("Frontier", "TTFT of 95% against", "ITL of 95% against", "busy pools"):
        assert title in text
    for said in ("3 mixed", "one more prefill worker: 12", "alone they take 400 ms", "450 ms"):
        assert said in text
    without_names = text.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "https://matplotlib.org", "").replace("http://creativecommons.org", "")
    assert "http" not in without_names
    assert page(plan()) == page(plan()), "the same plan, the same file"


def test_a_report_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot write"):
        write_html(plan(), tmp_path / "file" / "report.html")


def wants(**options: object) -> argparse.Namespace:
    return argparse.Namespace(**{"html": None, "json": None, "emit": None, "model": None,
                                 "hardware": [], **options})


@pytest.mark.parametrize(("options", "shown"), [
    ({}, "plans, the best first"), ({"emit": "command"}, "baton up"), ({"json": "-"}, '"verdict"'),
])
def test_what_can_be_written_is_though_something_cannot(
    tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes], options: dict[str, str], shown: str
) -> None:
    """A plan takes minutes."""
    (tmp_path / "file").write_text("")
    bad, good = tmp_path / "file" / "x", tmp_path / "plan.json"
    if "json" not in options:
        options = {**options, "json": str(good)}
    with pytest.raises(ConfigError, match="cannot write"):
        deliver(plan(), wants(html=bad, **options))
    assert shown in capsysbinary.readouterr().out.decode()
    assert options["json"] == "-" or read_plan(good) == plan()


def test_all_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cannot write .*a\.json.*; cannot write .*b\.html"):
        deliver(plan(), wants(json=str(tmp_path / "file" / "a.json"),
                              html=tmp_path / "file" / "b.html"))


def test_text_in_a_report_is_no_markup() -> None:
    assert "<script>" not in page(plan(verdict="<script>alert()</script>"))


# -- in words --------------------------------------------------------------------------------


def test_the_verdict_names_the_gain_where_there_is_one() -> None:
    best = choice(capacity=12.0, half=0.5)
    text = verdict([best, COLOCATED], None)
    assert "2 prefill + 1 decode serves 12 requests/s" in text
    assert "100% more per GPU than 3 mixed (colocated, 3 GPUs)" in text
    assert "reading prompts" in text


def with_capacities(made: Choice, *capacities: float) -> Choice:
    assert made.simulated is not None
    return msgspec.structs.replace(made, simulated=msgspec.structs.replace(
        made.simulated, capacities_per_s=list(capacities)))


def test_what_lies_within_chance_is_a_tie() -> None:
    """Seeds are compared one by one: what is always better is better, however seeds differ."""
    best = with_capacities(choice(), 9.0, 10.0, 11.0)
    sometimes = with_capacities(choice("colocated", {"mixed": 3}), 9.5, 9.0, 11.2)
    always = with_capacities(choice("colocated", {"mixed": 3}), 8.4, 9.4, 10.5)
    assert tied(best, sometimes)
    assert not tied(best, always)
    assert not tied(best, with_capacities(always, 9.0))
    assert "not told apart" in verdict([best, sometimes], None)
    assert "not told apart" not in verdict([best, always], None)


def test_a_rate_names_the_gpus_that_serve_it() -> None:
    text = verdict([choice()], 8.0)
    assert "serves 8 requests/s within the targets on 3 GPUs, and up to 10" in text
    failed = verdict([choice(feasible=False)], 80.0)
    assert failed == "Nothing meets the targets; 2 prefill + 1 decode comes nearest."


def test_the_terminal_shows_everything() -> None:
    written = io.StringIO()
    slow = msgspec.structs.replace(COLOCATED, binds="ttft")
    show(plan(choice(), slow, infeasible=FAILED, notes=["a note"]),
         Console(file=written, width=200))
    text = written.getvalue()
    for said in (
        "2 prefill + 1 decode", "colocated", "10 ± 1", "95.0%", "200", "70%", "infeasible (ttft)",
        "TTFT 450 ms instead", "one more prefill worker", "a note", "10%",
    ):
        assert said in text, said


# -- intervals -------------------------------------------------------------------------------


def test_the_report_has_the_intervals_that_the_table_has() -> None:
    """Of the share that was asked for, not of another."""
    made = choice()
    assert made.simulated is not None
    seen = msgspec.structs.replace(
        made.simulated,
        ttft_ms=replaced(made.simulated.ttft_ms, p90=Estimate(211.0, 204.0, 218.0)),
        itl_ms=replaced(made.simulated.itl_ms, p90=Estimate(12.3, 11.9, 12.7)),
        gap_ms=replaced(made.simulated.gap_ms, p99=Estimate(44.0, 41.0, 47.0)),
    )
    wanted = plan(msgspec.structs.replace(made, simulated=seen))
    wanted = msgspec.structs.replace(
        wanted, question=msgspec.structs.replace(wanted.question, attainment=0.9))
    report, written = page(wanted), io.StringIO()
    show(wanted, Console(file=written, width=200))
    for text in (report, written.getvalue()):
        for said in ("TTFT p90", "ITL p90", "211 ± 7", "12.3 ± 0.4", "44 ± 3", "10 ± 1"):
            assert said in text, said
    assert "95 ± 1 %" in report


def replaced(made: Percentiles, **changes: Estimate) -> Percentiles:
    return msgspec.structs.replace(made, **changes)
