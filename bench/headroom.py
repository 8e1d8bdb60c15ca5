"""What prompts that are computed where others decode do to these: by targets and by shares.

One worker's scheduler and model, without processes. Some sequences decode all the time, prompts
come one after the other, and the step curve is fitted as the worker fits it. The cases take turns
in short rounds, so that a busy machine slows all of them alike. "share" is how steps are filled
without a target: by role.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median, quantiles
from typing import Any

import torch

from baton.bench.results import Result, add_json, deliver, found
from baton.engine.block_pool import BlockPool
from baton.engine.commands import Start, UseCurve
from baton.engine.kv_memory import KVMemory
from baton.engine.limits import SchedulerLimits
from baton.engine.model.source import load_config, resolve_model
from baton.engine.models.registry import build_model
from baton.engine.runner import ModelRunner
from baton.engine.scheduler import Scheduler
from baton.engine.step_fit import StepFit
from baton.engine.weights import iter_weights
from baton.protocol.curves import StepShape
from baton.protocol.errors import ConfigError
from baton.protocol.ids import RequestKey
from baton.protocol.records import Request, Targets
from baton.protocol.sampling import SamplingParams
from baton.protocol.tokens import pack_tokens

CONTEXT = 320
BLOCK_SIZE = 16
NEWS_EVERY = 0.2
"""Seconds between two curves that the scheduler is given, as with heartbeats."""


@dataclass
class Case:
    """Steps while a prompt was being computed: seconds of each, and what all computed."""

    name: str
    role: str
    itl: float | None
    steps: list[float] = field(default_factory=list)
    tokens: int = 0
    prompts: list[float] = field(default_factory=list)
    """Seconds from the first to the last step of each."""
    spread: float = 0.0


class Rig:
    """A worker for one case, whose sequences decode from the start."""

    def __init__(
        self,
        case: Case,
        runner: ModelRunner,
        num_blocks: int,
        decodes: int,
        clock: Callable[[], float],
    ) -> None:
        self.case = case
        self._clock = clock
        self._runner = runner
        self._fit = StepFit()
        self._told = 0.0
        self._count = 0
        self._prompt: RequestKey | None = None
        self._prompt_seconds = 0.0
        self.scheduler = Scheduler(
            BlockPool(num_blocks),
            SchedulerLimits(max_model_len=8192, max_running=64, max_batch_tokens=512),
            block_size=BLOCK_SIZE,
            role=case.role,
        )
        for _ in range(decodes):
            self._start(CONTEXT, 100_000, case.itl)
        while self.scheduler.load().decoding < decodes:
            self._step()

    def run(self, seconds: float, prompt_tokens: int) -> None:
        """Prompts one after the other, for about so long; the last goes on the next time."""
        until = self._clock() + seconds
        while self._clock() < until:
            if self._prompt is None:
                self._prompt = self._start(prompt_tokens, 1, None)
                self._prompt_seconds = 0.0
            taken, tokens = self._step()
            self.case.steps.append(taken)
            self.case.tokens += tokens
        self.case.spread = self._fit.curve().spread

    def _start(self, length: int, max_tokens: int, itl: float | None) -> RequestKey:
        self._count += 1
        key = RequestKey(f"{self.case.name}-{self._count}", 1)
        request = Request(
            key=key,
            choice=0,
            prompt=pack_tokens([(self._count * 7919 + place) % 40_000 for place in range(length)]),
            sampling=SamplingParams(seed=0, max_tokens=max_tokens, temperature=0.0),
            targets=Targets(itl=itl),
        )
        self.scheduler.apply(Start(request, hold=False), self._clock())
        return key

    def _step(self) -> tuple[float, int]:
        """(seconds from one step's end to the next one's, prompt tokens computed)."""
        started = self._clock()
        batch = self.scheduler.schedule(started)
        shape = StepShape()
        for item in batch:
            past = item.seq.num_computed
            shape += (
                StepShape.decodes(1, past + 1)
                if item.num_tokens == 1
                else StepShape.chunk(item.num_tokens, past)
            )
        begun = self._clock()
        result = self._runner.step(batch)
        now = self._clock()
        for event in self.scheduler.complete(batch, result, now):
            if event.key == self._prompt:
                self.case.prompts.append(self._prompt_seconds + now - started)
                self._prompt = None
        taken = self._clock() - started
        self._prompt_seconds += taken
        self._fit.observe(shape, now - begun)
        if self.case.itl is not None and now > self._told + NEWS_EVERY:
            self._told = now
            self.scheduler.apply(UseCurve(self._fit.curve()), now)
        return taken, shape.prefill_tokens


def run(options: argparse.Namespace) -> Result:
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    if options.processor_time and torch.get_num_threads() != 1:
        raise ConfigError("--processor-time counts one thread: add --threads 1")
    clock = time.thread_time if options.processor_time else time.perf_counter
    source = resolve_model(options.model)
    model = build_model(load_config(source), dtype=torch.bfloat16, device="cpu")
    model.load_weights(iter_weights(source))
    cases = [Case(f"share, {role}", role, None) for role in ("decode", "mixed")]
    cases += [Case(f"target {ms} ms", "decode", ms / 1000) for ms in options.itl]
    steps = int(options.seconds * options.rounds / 0.01)
    tokens = options.decodes * (CONTEXT + steps) + 2 * options.prompt
    blocks = -(-min(tokens, options.decodes * 2000 + 2 * options.prompt) // BLOCK_SIZE)
    rigs = []
    for case in cases:
        runner = ModelRunner(model, KVMemory(model.kv_layout(BLOCK_SIZE), blocks, model.device))
        rigs.append(Rig(case, runner, blocks, options.decodes, clock))
    for rig in rigs:
        rig.run(options.warm_up, options.prompt)
        for kept in (rig.case.steps, rig.case.prompts):
            kept.clear()
        rig.case.tokens = 0
    for _ in range(options.rounds):
        for rig in rigs:
            rig.run(options.seconds, options.prompt)
    for rig in rigs:
        rig.scheduler.check_integrity()
        decoding = rig.scheduler.load().decoding
        if decoding != options.decodes:
            raise RuntimeError(f"{rig.case.name}: {decoding} decode, not {options.decodes}")
    return found(
        "headroom",
        settings={
            "model": source.name,
            "threads": torch.get_num_threads(),
            "clock": "processor" if options.processor_time else "wall",
            "decodes": options.decodes,
            "prompt_tokens": options.prompt,
        },
        series={"cases": [_summary(case) for case in cases]},
    )


def _summary(case: Case) -> dict[str, Any]:
    cuts = quantiles(case.steps, n=100, method="inclusive")
    itl = math.inf if case.itl is None else case.itl
    return {
        "case": case.name,
        "steps": len(case.steps),
        "p50_ms": round(cuts[49] * 1000, 1),
        "p90_ms": round(cuts[89] * 1000, 1),
        "p99_ms": round(cuts[98] * 1000, 1),
        "mean_ms": round(sum(case.steps) / len(case.steps) * 1000, 1),
        "within_target": None if case.itl is None else round(
            sum(step <= itl for step in case.steps) / len(case.steps), 3),
        "spread": round(case.spread, 3),
        "tokens_per_step": round(case.tokens / len(case.steps), 1),
        "prefill_tokens_per_second": round(case.tokens / sum(case.steps), 1),
        "prompt_seconds_p50": round(median(case.prompts), 2) if case.prompts else None,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="baton bench headroom",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", nargs="?", help="as for `baton up`; default: the embedded one")
    parser.add_argument("--itl", type=float, nargs="+", default=[40.0, 100.0],
                        help="targets between tokens, in milliseconds")
    parser.add_argument("--decodes", type=int, default=8, help="sequences that decode")
    parser.add_argument("--prompt", type=int, default=2048, help="tokens of each prompt")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each case in each round")
    parser.add_argument("--warm-up", type=float, default=4.0, help="seconds of each case")
    parser.add_argument("--threads", type=int, help="CPU threads; default: torch's choice")
    parser.add_argument("--processor-time", action="store_true",
                        help="as if the thread had its core for itself, where it has not")
    add_json(parser)
    options = parser.parse_args(arguments)
    report = run(options)
    if deliver(report, options.json):
        return 0
    cases = report.series["cases"]
    keys = list(cases[0])
    rows = [keys] + [[str(case[key]) for key in keys] for case in cases]
    widths = [max(len(row[place]) for row in rows) for place in range(len(keys))]
    for row in rows:
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))
    return 0
