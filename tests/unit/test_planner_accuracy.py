"""`baton bench planner`: its worker, its clients, the closed forms it compares, its report."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from baton.bench.planning.accuracy.closed_loop import Clients, closed_loop
from baton.bench.planning.accuracy.command import main
from baton.bench.planning.accuracy.distserve import example
from baton.bench.planning.accuracy.fitting import fit_efficiency, fit_host
from baton.bench.planning.accuracy.one_worker import Job, OneWorker
from baton.bench.planning.accuracy.open_loop import highest_rate, open_loop
from baton.bench.planning.accuracy.queue import exact, md1, queue
from baton.bench.planning.accuracy.rows import EVERY, SiliconRow, fitted_and_others, read_rows
from baton.bench.planning.accuracy.sources import (
    PEERS,
    errors,
    judge,
    roofline_curves,
    seen_by_clients,
)
from baton.bench.planning.hardware.kinds import load_machine
from baton.bench.planning.hardware.made import made
from baton.bench.planning.hardware.roofline import Efficiency
from baton.bench.planning.hardware.silicon import Host
from baton.protocol.curves import StepCurve, StepShape, attention_pairs
from baton.protocol.errors import ConfigError

CURVE = StepCurve(base=10e-3, chunk=0.0, token=1e-4, pair=0.0, decode=1e-3, context=1e-6,
                  spread=0.0, steps=1)


def _run(*jobs: Job, **worker: object) -> OneWorker:
    engine = OneWorker(CURVE, **worker)  # type: ignore[arg-type]
    for job in jobs:
        engine.send(job, job.sent)
    engine.run()
    return engine


# -- one worker ------------------------------------------------------------------------------


def test_a_request_alone_takes_its_steps() -> None:
    job = Job(2.0, 1000, 21)
    _run(job)
    assert job.ttft == pytest.approx(10e-3 + 1000 * 1e-4)
    # 20 steps of one sequence, the first of which attends to 1001 tokens.
    context = sum(range(1001, 1021)) * 1e-6
    assert job.tpot * 20 == pytest.approx(20 * 11e-3 + context)


def test_what_is_counted_at_once_is_what_single_steps_come_to() -> None:
    """A request that comes in the middle of a run of decodes is met at the next step."""
    first, second = Job(0.0, 100, 200), Job(0.55, 100, 2)
    _run(first, second)
    now, context, steps = 0.02, 101, 0
    while now < 0.55:
        now += CURVE.seconds(StepShape.decodes(1, context + steps))
        steps += 1
    read = CURVE.seconds(StepShape(1, 100, 0) + StepShape.decodes(1, context + steps))
    assert second.first == pytest.approx(now + read)


def test_prompts_share_steps_in_chunks_or_whole() -> None:
    """Two prompts of 500 and 700 tokens, 700 tokens a step."""
    one, two = Job(0.0, 500, 1), Job(0.0, 700, 1)
    _run(one, two, filling="mixed", step_tokens=700)
    assert one.ttft == pytest.approx(0.01 + 0.07)
    assert two.ttft == pytest.approx(0.08 + 0.01 + 0.05)
    one, two = Job(0.0, 500, 1), Job(0.0, 700, 1)
    _run(one, two, filling="whole", step_tokens=700)
    assert one.ttft == pytest.approx(0.01 + 0.05)
    assert two.ttft == pytest.approx(0.06 + 0.01 + 0.07)


def test_prompts_first_stop_the_decodes_and_others_do_not() -> None:
    for filling, stopped in (("prompts first", True), ("mixed", False)):
        writes, reads = Job(0.0, 10, 50), Job(0.1, 2000, 1)
        _run(writes, reads, filling=filling)
        alone = Job(0.0, 10, 50)
        _run(alone)
        delay = writes.tpot * 49 - alone.tpot * 49
        # A step of its own costs its base as well.
        assert delay == pytest.approx(0.21 if stopped else 0.2, abs=1e-3)


def test_a_full_pool_makes_requests_wait() -> None:
    first, second = Job(0.0, 100, 100), Job(0.0, 100, 100)
    _run(first, second, kv_tokens=300)
    assert second.first > first.last
    _run(first := Job(0.0, 100, 100), second := Job(0.0, 100, 100), kv_tokens=400)
    assert second.first == first.first


def test_a_filling_must_be_known() -> None:
    with pytest.raises(ValueError, match="one of mixed, whole"):
        OneWorker(CURVE, filling="full")


# -- clients ---------------------------------------------------------------------------------


def test_one_client_waits_for_nobody() -> None:
    seen = closed_loop(CURVE, Clients(count=1, prompt=1000, output=21, turnaround=0.0))
    assert seen.ttft == pytest.approx(0.11)
    assert seen.tpot == pytest.approx(11e-3 + 1010.5e-6)


def test_all_that_begin_at_once_wait_for_each_other() -> None:
    clients = Clients(count=8, prompt=1000, output=200, turnaround=0.0)
    together = closed_loop(CURVE, clients)
    # Equal requests end together and come back together, all in one step.
    assert together.ttft == pytest.approx(0.01 + 8 * 0.1)
    apart = closed_loop(CURVE, replace(clients, shortest=0.8))
    assert apart.ttft < 0.6 * together.ttft
    assert apart == closed_loop(CURVE, replace(clients, shortest=0.8))
    assert apart != closed_loop(CURVE, replace(clients, shortest=0.8), seed=2)


def test_requests_in_an_open_loop_do_not_wait_for_answers() -> None:
    jobs = open_loop(CURVE, 4.0, 2000, 100, 1, filling="prompts first", step_tokens=100)
    assert np.mean([job.ttft for job in jobs]) == pytest.approx(md1(0.02, 4.0), rel=0.01)
    decoded = open_loop(CURVE, 2.0, 500, 0, 30, context=400)
    assert all(job.ttft >= 0 for job in decoded)
    # Sequences that share a step: n is negative binomial, and 58 tokens a second are written.
    each = 1e-3 + 415e-6
    n = 58 * (10e-3 + each) / (1 - 58 * each)
    assert np.mean([job.tpot for job in decoded]) == pytest.approx(n / 58, rel=0.02)


def test_the_highest_rate_is_where_the_target_is_met() -> None:
    assert highest_rate(lambda rate: [0.1 * rate] * 10, 0.5, 0.9, 40.0) == pytest.approx(
        5.0, rel=0.01)


# -- closed forms ----------------------------------------------------------------------------


def test_md1_is_exact_and_the_recursion_agrees() -> None:
    assert md1(0.1, 5.0) == pytest.approx(0.1 + 5 * 0.01 / (2 * 0.5))
    with pytest.raises(ValueError, match="no steady state"):
        md1(0.1, 10.0)
    times = np.cumsum(np.random.default_rng(1).exponential(0.2, 200_000)).tolist()
    assert exact(times, 0.1) == pytest.approx(md1(0.1, 5.0), rel=0.01)


def test_planner_and_simulated_worker_are_an_md1_queue() -> None:
    seen = queue(made(), 512, 0.6, 60)
    assert seen.planner == pytest.approx(seen.formula, rel=1e-6)
    assert seen.simulated == pytest.approx(seen.formula, rel=0.03)


@pytest.fixture(scope="module")
def distserve(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fits") / "fits.json"
    fit = {"decoding_large_small_bs_threshold": 95, "prefill": [18.0, 0.1, 7e-6],
           "decoding_smallbs": [20.0, 6e-4, 0.04], "decoding_largebs": [7.0, 6e-4, 0.16]}
    path.write_text(json.dumps({"facebook/opt-13b": {"1": fit}}))
    return path


def test_the_worked_example(distserve: Path) -> None:
    """Fits much like the published ones."""
    seen = example(load_machine(f"{distserve}:facebook/opt-13b:1"), count=1500)
    assert seen.planner.reads == pytest.approx(seen.simulated.reads, rel=0.05)
    assert seen.planner.writes == pytest.approx(seen.simulated.writes, rel=0.05)
    assert seen.slowed_split == pytest.approx(10.0, rel=0.01)
    # One that does both carries far less than either alone.
    assert 1.2 < seen.slowed_colocated < 1.9
    assert seen.slowed_colocated < seen.colocated < seen.simulated.reads


# -- rows and sources ------------------------------------------------------------------------


def _row(number: int, engine: str = "vllm", **more: object) -> SiliconRow:
    plain: dict[str, object] = {
        "name": f"r{number}", "engine": engine, "model": "meta-llama/Llama-3.1-8B-Instruct",
        "system": "h100_sxm", "dtype": "bfloat16", "devices": 1, "clients": 8, "prompt": 500,
        "output": 60, "ttft": 0.1, "tpot": 0.01,
    }
    return SiliconRow(**(plain | more))  # type: ignore[arg-type]


HEADER = ("id,backend,model_path,system,precision,mode,isl,osl,batch_size,tp_size,pp_size,"
          "silicon_ttft_ms,silicon_tpot_ms")


def test_rows_are_read_and_others_left_out(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("\n".join([
        HEADER,
        "a,vllm,meta-llama/Llama-3.1-8B-Instruct,h100_sxm,,agg,1024,1024,8,2,1,120.5,9.5",
        "b,trtllm,Qwen/Qwen3-32B,h200_sxm,fp8,agg,4096,128,16,1,1,1000,20",
        "c,trtllm,Qwen/Qwen3-32B,h200_sxm,fp8,disagg,4096,128,16,1,1,1000,20",
        "d,trtllm,Qwen/Qwen3-32B,h200_sxm,fp8,agg,4096,128,16,1,2,1000,20",
        "e,trtllm,Qwen/Qwen3-32B,mystery,fp8,agg,4096,128,16,1,1,1000,20",
    ]))
    first, second = read_rows(path)
    assert (first.name, first.dtype, first.devices, first.clients) == ("a", "bfloat16", 2, 8)
    assert first.ttft == pytest.approx(0.1205)
    assert (first.varied, second.varied) == (True, False)
    assert first.load(0.97).shortest == 0.8
    assert second.load(0.97).shortest == 0.97
    (tmp_path / "no.csv").write_text("x,y\n1,2\n")
    for name, message in (("no.csv", "no table of measured runs"), ("none", "cannot read")):
        with pytest.raises(ConfigError, match=message):
            read_rows(tmp_path / name)


def test_errors_are_of_rows_that_nothing_was_fitted_to() -> None:
    rows = [_row(number) for number in range(3 * EVERY + 1)]
    measured, others = fitted_and_others(rows)
    assert [row.name for row in measured] == ["r0", "r12", "r24", "r36"]
    assert len(others) == 33
    assert not set(measured) & set(others)


def test_errors_are_relative_and_have_a_sign() -> None:
    of = errors([-0.1, 0.2, -0.3])
    assert (of.rows, of.median, of.bias) == (3, 0.2, -0.1)
    assert of.p90 == pytest.approx(0.28)
    assert np.isnan(errors([]).median)


def test_what_a_source_does_not_know_is_told_apart() -> None:
    curves = roofline_curves()
    known = _row(1)
    seen = seen_by_clients(known, curves(known))
    exact_row = replace(known, ttft=seen.ttft, tpot=seen.tpot / 1.25)

    def partly(row: SiliconRow) -> StepCurve:
        if row.engine == "trtllm":
            raise ConfigError("not measured")
        return curves(row)

    judged, missing = judge([exact_row, _row(2, "trtllm")], partly)
    assert missing == ["not measured"]
    [one] = judged
    assert one.ttft == pytest.approx(0.0)
    assert one.tpot == pytest.approx(0.25)


def test_constants_are_found_again_from_rows_made_with_them() -> None:
    truth = replace(Efficiency(), memory=0.6, step=3e-3)
    curves = roofline_curves(truth)
    rows = []
    for number, (clients, prompt) in enumerate([(1, 200), (4, 200), (16, 200), (2, 1500)]):
        row = _row(number, clients=clients, prompt=prompt, output=20)
        seen = seen_by_clients(row, curves(row))
        rows.append(replace(row, ttft=seen.ttft, tpot=seen.tpot))
    found = roofline_curves(fit_efficiency(rows, Efficiency()))
    for row in rows:
        seen = seen_by_clients(row, found(row))
        assert seen.tpot == pytest.approx(row.tpot, rel=0.05)


def test_what_a_host_adds_is_found_again() -> None:
    kernels = roofline_curves(replace(Efficiency(), step=0.0, sequence=0.0))
    host = Host(3e-3, 1e-4)
    peer = replace(PEERS["vllm"], shortest=0.9)
    rows = []
    for number, clients in enumerate((1, 4, 16)):
        row = _row(number, clients=clients, prompt=300, output=20)
        plain = kernels(row)
        added = StepCurve(**{
            name: getattr(plain, name) for name in plain.__struct_fields__
        } | {"base": plain.base + host.step, "chunk": plain.chunk + host.sequence,
             "decode": plain.decode + host.sequence})
        seen = seen_by_clients(row, added, peer)
        rows.append(replace(row, ttft=seen.ttft, tpot=seen.tpot))
    found, as_seen = fit_host(rows, kernels, PEERS["vllm"])
    assert found.step == pytest.approx(host.step, rel=0.1)
    assert found.sequence == pytest.approx(host.sequence, rel=0.2)
    assert as_seen.shortest == 0.9


# -- the command -----------------------------------------------------------------------------


def test_the_report_has_rows_wanted_and_seen(
    tmp_path: Path, distserve: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("baton.bench.planning.hardware.silicon._MODULES", ())
    curves = roofline_curves()
    lines = [HEADER]
    for number, clients in enumerate((1, 2, 4, 8)):
        row = _row(number, clients=clients, output=20)
        seen = seen_by_clients(row, curves(row))
        lines.append(f"r{number},vllm,{row.model},h100_sxm,,agg,500,20,{clients},1,1,"
                     f"{seen.ttft * 1e3},{seen.tpot * 1.5e3}")
    path = tmp_path / "rows.csv"
    path.write_text("\n".join(lines))
    out = tmp_path / "result.jsonl"
    code = main(["--silicon", str(path), "--requests", "50", "--json", str(out)])
    assert code == 1  # times per token are a third too short
    result = json.loads(out.read_text())
    assert result["bench"] == "planner"
    holds = {row["what"]: row["holds"] for row in result["rows"]}
    assert holds["roofline, TTFT: median error"]
    assert not holds["roofline, TPOT: median error"]
    assert holds["M/D/1 at load 0.3, simulated: error of the mean TTFT"]
    assert [one["id"] for one in result["series"]["roofline"]] == ["r1", "r2", "r3"]
    assert result["metrics"]["roofline"]["vllm"]["tpot"]["bias"] == pytest.approx(-1 / 3)
    shown = capsys.readouterr().out
    assert "nothing was fitted to" in shown
    assert "pip install" in shown


def test_options_that_make_no_sense(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--fit"], ["--requests", "3"], ["--nonsense"]):
        with pytest.raises(SystemExit):
            main(arguments)
    assert "--fit needs the rows" in capsys.readouterr().err


def test_pairs_are_counted_over_chunks() -> None:
    """A prompt in chunks attends over as many pairs as in one step."""
    curve = StepCurve(base=0.0, chunk=0.0, token=0.0, pair=1e-6, decode=0.0, context=0.0,
                      spread=0.0, steps=1)
    job = Job(0.0, 1000, 1)
    engine = OneWorker(curve, step_tokens=128)
    engine.send(job, 0.0)
    engine.run()
    assert job.ttft == pytest.approx(attention_pairs(1000, 0) * 1e-6)
