"""The commands that run a plan."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from baton.bench.planning.hardware.measured import read_profile
from baton.bench.planning.hardware.same_model import starts_with
from baton.bench.planning.plan import HYBRID, Choice, Plan
from baton.deploy.settings import WorkerSettings

ROUTER = "ROUTER:7777"
"""Stands for the address that workers dial, where it is not known yet."""
_LEAST_STEP = 512
"""Tokens of a step on any device unless told otherwise."""
_STEP = 2048
"""Tokens of a step that has to be larger than that."""
_WIDE_GPUS = 8
"""More than so many are of several machines."""


def commands(plan: Plan, model: str | None, hardware: Sequence[str] = ()) -> list[str]:
    """For the best choice: one `baton up` where all fits on one machine, else a router and its
    workers. Lines that begin with # say what no command can."""
    best = plan.choices[0]
    lines = [f"# {plan.verdict}"]
    if plan.infeasible is not None:
        lines.append(f"# this does not meet the targets: {plan.infeasible.text}")
    if any(pool.devices > 1 for pool in best.pools):
        lines.append("# these workers have several devices each, which Baton's own have not: the "
                     "commands start one per worker")
    paced = _profile(hardware) if model is None else None
    if paced is not None:
        model, remarks = _measured(paced)
        lines += remarks
        lines.append(f"# without a model, as fast as {paced} says: add --paced {paced}")
    if best.gpus <= _WIDE_GPUS and len({pool.kind for pool in best.pools}) == 1:
        return [*lines, up_command(plan, best, model)]
    return [*lines, *separate_commands(plan, best, model)]


def up_command(plan: Plan, choice: Choice, model: str | None) -> str:
    """On this machine."""
    counts = [
        option for pool in choice.pools for option in (f"--{pool.role}", str(pool.workers))
    ]
    return _line("up", *_model(model), *counts, *_targets(plan), *_roles(choice),
                 *_limits(choice))


def separate_commands(plan: Plan, choice: Choice, model: str | None) -> list[str]:
    """A router, and each worker by itself."""
    router = _line("router", *_model(model), "--host", "0.0.0.0", "--api-key", "$BATON_API_KEY",
                   "--control", "0.0.0.0:7777", *_targets(plan), *_roles(choice))
    # A variable is to be expanded by the shell.
    lines = [router.replace("'$BATON_API_KEY'", '"$BATON_API_KEY"')]
    for pool in choice.pools:
        for number in range(pool.workers):
            lines.append(_line(
                "worker", *_model(model), "--role", pool.role, "--join", ROUTER,
                "--id", f"{pool.role}-{number}", *_limits(choice),
            ) + f"  # {pool.kind}")
    return lines


def _line(command: str, *arguments: str) -> str:
    return shlex.join(["baton", command, *arguments])


def _model(model: str | None) -> list[str]:
    return [] if model is None else [model]


def _targets(plan: Plan) -> list[str]:
    return ["--ttft", f"{plan.question.ttft_ms:g}ms", "--itl", f"{plan.question.itl_ms:g}ms"]


def _roles(choice: Choice) -> list[str]:
    """The plan is of these roles; the router may say what it would change, and not do it."""
    strict = [] if choice.shape == HYBRID else ["--strict-roles"]
    return [*strict, "--sizing", "dry-run"]


def _limits(choice: Choice) -> list[str]:
    """Room for the batches that the plan reckons with, where the usual one has none."""
    most = max(pool.batch_limit for pool in choice.pools)
    if most <= WorkerSettings.max_running:
        return []
    running = ["--max-running", str(most)]
    if 2 * most <= _LEAST_STEP:
        return running
    tokens = max(_STEP, 2 * most, *(pool.chunk for pool in choice.pools))
    return [*running, "--max-batch-tokens", str(tokens)]


def _measured(file: str) -> tuple[str | None, list[str]]:
    """The model that a profile was measured with, as `baton up` takes it; or a remark on it."""
    try:
        profile = read_profile(Path(file))
    except (OSError, ValueError):
        return None, []
    model, known = starts_with(profile)
    return model, [] if known else [
        f"# {file} was measured with {profile.model}: name its directory or file, or another "
        "model is served"
    ]


def _profile(hardware: Sequence[str]) -> str | None:
    """The one file of `baton profile` that was named."""
    files = [name for name in hardware if name.endswith(".json") and Path(name).is_file()]
    return files[0] if len(files) == 1 else None
