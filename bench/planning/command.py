"""`baton plan`: how many workers of which role, whether to disaggregate at all, and why."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from baton.bench.planning.candidates import MOST_DEVICES
from baton.bench.planning.files import write_file
from baton.bench.planning.inputs import (
    AT_MOST,
    add_hardware,
    add_load,
    add_wishes,
    parser,
    read_kinds,
    read_load,
    read_rate,
    read_wishes,
)
from baton.bench.planning.limits import Limits
from baton.bench.planning.plan import Plan, encode
from baton.bench.planning.planner import Asked, make_plan
from baton.bench.planning.processes import EFFORTS
from baton.bench.planning.progress import progress
from baton.bench.planning.table import show
from baton.protocol.errors import ConfigError

ABOUT = """\
How many workers read prompts, how many write tokens, and would one kind that does both do as well?

Closed forms sort all layouts; the best of each shape (colocated, hybrid, disaggregated) then run
in simulated time, with the router and the schedulers that serve. Exit code 2: no layout meets the
targets; what would be nearest is said.
"""
EXAMPLES = """\
  baton profile --out here.json            # how fast is this machine?
  baton plan --hardware here.json --gpus 4 --workload chat --ttft 500ms --itl 60ms

  baton plan --hardware h100 --model meta-llama/Llama-3.1-8B --gpus 8 --rate 12/s \\
      --prompt 2000 --output 300 --prefix-share 0.3 --ttft 300ms --itl 40ms --link 25GB/s

  baton plan --hardware h100@2.5 --hardware l40s@0.8 --cost 20 --trace journal.jsonl \\
      --html report.html --json plan.json

  baton plan ... --emit command            # the commands that run the best plan
  baton plan --watch http://127.0.0.1:8000 # does a running cluster do what was planned?"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0, or 2 where nothing meets the targets. Raises ConfigError."""
    options = _parser().parse_args(None if arguments is None else list(arguments))
    if options.watch is not None:
        from baton.bench.planning.watch import watch

        return watch(options)
    if options.apply:
        raise ConfigError("--apply changes the roles of a running cluster: it needs --watch URL")
    asked = read_question(options)
    with progress() as tell:
        plan = make_plan(asked, tell)
    return deliver(plan, options)


def read_question(options: argparse.Namespace) -> Asked:
    """All options, checked."""
    kinds, prices = read_kinds(options)
    load = read_load(options, kinds)
    given = read_rate(options.rate)
    rate = None if options.rate == AT_MOST else given if given is not None else load.rate
    limits = read_limits(options, prices, [kind.devices for kind in kinds], rate)
    if options.jobs is not None and options.jobs < 1:
        raise ConfigError(f"--jobs must be at least 1, got {options.jobs}")
    return Asked(kinds=kinds, load=load, wishes=read_wishes(options), limits=limits,
                 effort=options.effort, seed=options.seed, jobs=options.jobs)


def read_limits(
    options: argparse.Namespace, prices: Sequence[float | None], devices: Sequence[int],
    rate: float | None,
) -> Limits:
    """How much hardware there may be."""
    if options.price is not None and not 0 < options.price < math.inf:
        raise ConfigError(f"--price must be above 0, got {options.price:g}")
    known = tuple(options.price if price is None else price for price in prices)
    gpus, cost = options.gpus, options.cost
    if gpus is None and cost is None:
        raise ConfigError("give --gpus N, or --cost with the price of a GPU-hour (--price)")
    if cost is not None:
        if not 0 < cost < math.inf:
            raise ConfigError(f"--cost must be above 0, got {cost:g}")
        if any(price is None for price in known):
            raise ConfigError("--cost needs the price of a GPU-hour: --price 2.5, or "
                              "--hardware h100@2.5")
        affordable = int(cost / min(price for price in known if price is not None) + 1e-9)
        gpus = min(MOST_DEVICES, affordable if gpus is None else min(gpus, affordable))
    if not 1 <= gpus <= MOST_DEVICES and cost is None:
        raise ConfigError(f"--gpus must be from 1 to {MOST_DEVICES}, got {gpus}")
    by_cost = options.rank == "cost" or (
        options.rank is None and (cost is not None or len(set(known) - {None}) > 1)
    )
    if by_cost and any(price is None for price in known):
        raise ConfigError("--rank cost needs the price of a GPU-hour: --price 2.5")
    return Limits(gpus=gpus, prices=known, cost=cost, rate=rate, by_cost=by_cost,
                  use_all=options.use_all)


def deliver(plan: Plan, options: argparse.Namespace) -> int:
    """To where the options say: a plan takes minutes, so one place that cannot be written costs
    none of the others. Returns the exit code. Raises ConfigError at the end, of all that could
    not be written."""
    problems: list[str] = []

    def write(to: Callable[[], None]) -> None:
        try:
            to()
        except ConfigError as error:
            problems.append(str(error))

    if options.json not in (None, "-"):
        write(lambda: write_file(Path(options.json), encode(plan)))
    if options.json == "-":
        sys.stdout.buffer.write(encode(plan))
    elif options.emit is not None:
        from baton.bench.planning.emit import commands

        print("\n".join(commands(plan, options.model, options.hardware)))
    else:
        show(plan, Console() if sys.stdout.isatty() else Console(width=160))
    sys.stdout.flush()
    if options.html is not None:
        from baton.bench.planning.html import write_html

        write(lambda: write_html(plan, options.html))
    if problems:
        raise ConfigError("; ".join(problems))
    return plan.code


def _parser() -> argparse.ArgumentParser:
    found = parser("plan", ABOUT, EXAMPLES)
    add_hardware(found)
    limits = found.add_argument_group("limits")
    limits.add_argument("--gpus", type=int, metavar="N", help="that there may be")
    limits.add_argument("--cost", type=float, metavar="MONEY", help="of an hour, at most")
    limits.add_argument("--price", type=float, metavar="MONEY",
                        help="of an hour of one GPU, where --hardware names none")
    limits.add_argument("--rank", choices=("gpu", "cost"),
                        help="by goodput per GPU or per cost; default: cost with --cost or unlike "
                        "prices")
    limits.add_argument("--use-all", action="store_true",
                        help="use all GPUs, though fewer may serve the rate")
    add_load(found)
    add_wishes(found)
    how = found.add_argument_group("how")
    how.add_argument("--effort", choices=EFFORTS, default="normal",
                     help="how many layouts are simulated, for how long, with how many seeds")
    how.add_argument("--seed", type=int, default=1)
    how.add_argument("--jobs", type=int, metavar="N", help="processes; default: one per core")
    out = found.add_argument_group("output; default: tables")
    out.add_argument("--json", nargs="?", const="-", metavar="FILE",
                     help="the plan as JSON, to FILE or instead of tables")
    out.add_argument("--html", type=Path, metavar="FILE", help="a report with plots, in one file")
    out.add_argument("--emit", choices=("command",),
                     help="print the commands that run the best plan, and nothing else")
    live = found.add_argument_group("a running cluster")
    live.add_argument("--watch", metavar="URL",
                      help="of a router: compare what runs there with the plan (--plan), and say "
                      "what to change")
    live.add_argument("--plan", type=Path, metavar="FILE", help="what --json wrote")
    live.add_argument("--journal", type=Path, metavar="FILE",
                      help="of that router, for more requests than it remembers")
    live.add_argument("--apply", action="store_true", help="change roles; default: only say so")
    live.add_argument("--every", default="10s", metavar="DURATION", help="between looks")
    live.add_argument("--once", action="store_true", help="look once and end")
    live.add_argument("--api-key", metavar="KEY", default=os.environ.get("BATON_API_KEY"),
                      help="default: $BATON_API_KEY")
    return found
