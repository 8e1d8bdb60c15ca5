"""How fast blocks move between two processes of this machine, what that costs, and beside it what
the machine itself does: one contiguous buffer in the same way, a memory copy, NIXL.

Scattered, cold blocks, drawn anew for each round from pools much larger than the caches, move as a
hand-off moves them, in every scheme that a probe chooses from. With the privilege, the same
between two network namespaces whose link is shaped, beside a plain TCP stream.
"""

from __future__ import annotations

import argparse
import json as jsonlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import numpy as np

from baton.bench.results import Result, add_json, deliver, found
from baton.bench.wire.cases import (
    CONTIGUOUS,
    CONTIGUOUS_PULLED,
    POOL_BYTES,
    POSTING,
    SCATTERED,
    Case,
    Round,
    blocks_of,
    plan,
    schemes,
)
from baton.bench.wire.namespaces import shaped_link, tcp_bytes_per_s, why_not
from baton.bench.wire.pair import Job, Outcome, Sample, run_pair
from baton.kvtransfer.checksum import checksum

MIB = 1 << 20
SHAPED_MBIT = (1000, 10000)
SHAPED_CASE = Case(360 << 10, 64)
NIXL_PEER = Path(__file__).parent / "peers" / "nixl_peer.py"
NIXL_SECONDS = 300.0


def summarize(case: Case, samples: Sequence[Sample]) -> dict[str, float]:
    """The first sample is the warm-up and is left out. Of the rest, the medians."""
    counted = samples[1:]
    mib = case.total / MIB
    seconds = statistics.median(each.seconds for each in counted)
    return {
        "gb_per_s": case.total / seconds / 1e9,
        "best_gb_per_s": case.total / min(each.seconds for each in counted) / 1e9,
        "posting_share": statistics.median(each.posting / each.seconds for each in counted),
        "sender_cpu_us_per_mib": statistics.median(each.sender_cpu for each in counted) / mib * 1e6,
        "receiver_cpu_us_per_mib": statistics.median(each.receiver_cpu for each in counted)
        / mib
        * 1e6,
    }


def by_case(rounds: Sequence[Round], outcome: Outcome) -> list[dict[str, Any]]:
    """One entry per case: what each variant did, and which of them the probe chose."""
    found: dict[Case, dict[str, list[Sample]]] = {}
    for each, sample in zip(rounds, outcome.samples, strict=True):
        found.setdefault(each.case, {}).setdefault(each.variant, []).append(sample)
    entries = []
    for case, variants in found.items():
        result = outcome.probes[case.block_bytes]
        chosen = next(
            name for name, scheme in schemes(case.block_bytes).items() if scheme == result.chosen
        )
        summaries = {name: summarize(case, samples) for name, samples in variants.items()}
        contiguous = summaries.pop(CONTIGUOUS)
        over_ucx = contiguous["gb_per_s"]
        pulled = summaries.pop(CONTIGUOUS_PULLED, None)
        if pulled is not None and result.chosen.pulled:
            contiguous = pulled  # the same way as the blocks go
        entries.append(
            {
                "case": case.name,
                "block_bytes": case.block_bytes,
                "blocks": case.count,
                "chosen": chosen,
                "schemes": summaries,
                "contiguous": contiguous,
                "contiguous_over_ucx_gb_per_s": over_ucx,
                "of_contiguous": summaries[chosen]["gb_per_s"] / contiguous["gb_per_s"],
            }
        )
    return entries


def nixl(python: str, rounds: int) -> dict[str, Any]:
    """What NIXL does with the same cases, the better of its two directions for each. Raises
    RuntimeError when it fails."""
    wanted = {
        "rounds": rounds,
        "pool_bytes": POOL_BYTES,
        "cases": [[case.block_bytes, case.count] for case in SCATTERED],
    }
    answer = subprocess.run(
        [python, str(NIXL_PEER), jsonlib.dumps(wanted)],
        capture_output=True,
        text=True,
        timeout=NIXL_SECONDS,
        check=False,
    )
    lines = [line for line in answer.stdout.splitlines() if line.startswith("{")]
    if answer.returncode or not lines:
        raise RuntimeError(f"NIXL: {answer.stderr.strip()[-500:]}")
    told = jsonlib.loads(lines[-1])
    speeds: dict[str, dict[str, float]] = {}
    for each in told["results"]:
        case = Case(each["block_bytes"], each["blocks"])
        speed = case.total / statistics.median(each["seconds"]) / 1e9
        speeds.setdefault(case.name, {})[each["operation"]] = speed
    return {"version": told["version"], "gb_per_s": speeds}


def memcpy_gb_per_s(case: Case, rounds: int) -> float:
    """The median of copying cold scattered blocks of one pool into those of another, in one
    thread."""
    count = POOL_BYTES // case.block_bytes
    source, target = (np.ones((count, case.block_bytes), np.uint8) for _ in range(2))

    def copy(number: int) -> float:
        each = Round(case, "", number, 0)
        pairs = list(zip(blocks_of(each, 1), blocks_of(each, 2), strict=True))

        def each_block() -> None:
            for of, to in pairs:
                np.copyto(target[to], source[of])

        return seconds_of(each_block)

    return case.total / statistics.median(copy(number) for number in range(rounds)) / 1e9


def checksum_gb_per_s() -> float:
    """Of the checksums that `--kv-checksum` adds on either side, over cold memory."""
    blocks = np.ones((256, 360 << 10), np.uint8)
    return blocks.nbytes / seconds_of(lambda: [checksum(block) for block in blocks]) / 1e9


def seconds_of(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def shaped(rounds: int) -> list[dict[str, Any]]:
    """Two namespaces, a link of each rate, a TCP stream before and after ours."""
    entries = []
    for mbit in SHAPED_MBIT:
        total = SHAPED_CASE.total * (2 if mbit < 5000 else 8)
        with shaped_link(mbit) as namespaces:
            before = tcp_bytes_per_s(namespaces, total)
            schedule = plan((SHAPED_CASE,), rounds, same_host=False)
            outcome = run_pair(Job(schedule, same_host=False, namespaces=namespaces))
            after = tcp_bytes_per_s(namespaces, total)
        (entry,) = by_case(schedule, outcome)
        stream = (before + after) / 2 / 1e9
        entry |= {
            "mbit_per_s": mbit,
            "carriers": outcome.carriers,
            "tcp_stream_gb_per_s": stream,
            "of_tcp_stream": entry["schemes"][entry["chosen"]]["gb_per_s"] / stream,
        }
        entries.append(entry)
    return entries


def measure(rounds: int, *, nixl_python: str | None, network: bool) -> Result:
    """Everything. What is skipped says so, and why."""
    load = os.getloadavg()[0]
    schedule = plan((*SCATTERED, POSTING), rounds)
    outcome = run_pair(Job(schedule))
    cases = by_case(schedule, outcome)
    seen: dict[str, Any] = {
        "load_average": load,
        "checksum_gb_per_s": checksum_gb_per_s(),
        "nixl": {"skipped": "no --nixl-python"},
        "shaped": {"skipped": "no --network"},
    }
    if nixl_python is not None:
        seen["nixl"] = nixl(nixl_python, rounds)
    for entry, case in zip(cases, (*SCATTERED, POSTING), strict=True):
        entry["memcpy_gb_per_s"] = memcpy_gb_per_s(case, rounds)
        theirs = seen["nixl"].get("gb_per_s", {}).get(case.name)
        if theirs:
            ours = entry["schemes"][entry["chosen"]]["gb_per_s"]
            entry["nixl_gb_per_s"] = max(theirs.values())
            entry["times_nixl"] = ours / max(theirs.values())
    if network:
        why = why_not()
        seen["shaped"] = {"skipped": why} if why else shaped(max(2, rounds // 2))
    return found(
        "transfer",
        settings={"carriers": outcome.carriers, "rounds": rounds},
        metrics=seen,
        series={"cases": cases},
        versions=versions(),
    )


def versions() -> dict[str, str]:
    """Of what the bytes pass through; a package may be there under another name (CUDA major)."""
    names = {each.metadata["Name"]: each.version for each in distributions()}
    wanted = ("baton-serve", "ucxx", "libucx", "uvloop", "numpy", "xxhash")
    return {name: number for name, number in names.items() if name.startswith(wanted)}


def render(result: Result) -> str:
    machine, seen = result.ran, result.metrics
    lines = [
        f"{result.settings['carriers']}, {machine['cpu']}, {machine['cores']} cores; GB/s, "
        f"median of {result.settings['rounds']} rounds, cold blocks; load average before "
        f"{seen['load_average']:.1f}",
        f"{'blocks':>15} {'chosen':>15} {'GB/s':>6} {'contig.':>8} {'share':>6} {'NIXL':>6} "
        f"{'times':>6} {'memcpy':>7} {'posting':>8} {'CPU us/MiB':>11}",
    ]
    for case in result.series["cases"]:
        ours = case["schemes"][case["chosen"]]
        theirs = f"{case['nixl_gb_per_s']:.1f}" if "nixl_gb_per_s" in case else "-"
        times = f"{case['times_nixl']:.1f}" if "times_nixl" in case else "-"
        cpu = f"{ours['sender_cpu_us_per_mib']:.0f}, {ours['receiver_cpu_us_per_mib']:.0f}"
        lines.append(
            f"{case['case']:>15} {case['chosen']:>15} {ours['gb_per_s']:>6.1f} "
            f"{case['contiguous']['gb_per_s']:>8.1f} {case['of_contiguous']:>6.0%} {theirs:>6} "
            f"{times:>6} {case['memcpy_gb_per_s']:>7.1f} {ours['posting_share']:>8.1%} {cpu:>11}"
        )
        others = ", ".join(
            f"{name} {each['gb_per_s']:.1f}" for name, each in case["schemes"].items()
        )
        lines.append(f"{'':>15} {others}")
    lines.append(f"checksums: {seen['checksum_gb_per_s']:.1f} GB/s on either side")
    for key in ("nixl", "shaped"):
        if "skipped" in seen[key]:
            lines.append(f"SKIPPED {key}: {seen[key]['skipped']}")
    if isinstance(seen["shaped"], list):
        lines += [
            f"{each['mbit_per_s']} Mbit/s: {each['schemes'][each['chosen']]['gb_per_s']:.3f} GB/s "
            f"({each['chosen']}), TCP stream {each['tcp_stream_gb_per_s']:.3f}, "
            f"{each['of_tcp_stream']:.0%}"
            for each in seen["shaped"]
        ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="baton bench transfer", description=__doc__)
    add_json(parser)
    parser.add_argument("--rounds", type=int, default=9, help="timed rounds per case and scheme")
    parser.add_argument("--plot", type=Path, help="draw it, as PNG or SVG (needs matplotlib)")
    parser.add_argument("--nixl-python", help="the Python of an environment that has `nixl`")
    parser.add_argument("--network", action="store_true", help="shaped namespaces too (as root)")
    options = parser.parse_args(arguments)
    result = measure(options.rounds, nixl_python=options.nixl_python, network=options.network)
    if not deliver(result, options.json):
        print(render(result))
    if options.plot is not None:
        from baton.bench.plots.drawing import save
        from baton.bench.plots.transfer import rates

        save(rates(result), options.plot)
    sys.stdout.flush()


if __name__ == "__main__":
    main()
