"""Who may import whom, and what stays free of torch: the table in docs/architecture.md."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

MAY_IMPORT: dict[str, set[str]] = {
    "protocol": set(),
    "kernels": {"protocol"},
    "kvtransfer": {"protocol", "kernels"},
    "engine": {"protocol", "kernels"},
    "prefill": {"protocol", "engine", "kvtransfer"},
    "decode": {"protocol", "engine", "kvtransfer"},
    "router": {"protocol", "engine.model", "engine.tokenizer"},
    "bench": {
        "protocol", "kernels", "kvtransfer", "engine", "prefill", "decode", "router", "deploy",
    },
    "deploy": {"protocol", "kernels", "kvtransfer", "engine", "prefill", "decode", "router"},
}

PURE = (
    "protocol/*.py",
    "protocol/link/session.py",
    "kvtransfer/handoff/*.py",
    "engine/sequence.py",
    "engine/sequence_table.py",
    "engine/batch.py",
    "engine/stopping.py",
    "engine/commands.py",
    "engine/limits.py",
    "engine/haste.py",
    "engine/block_pool.py",
    "engine/cache_log.py",
    "engine/prefix_cache.py",
    "engine/room.py",
    "engine/handoffs.py",
    "engine/order.py",
    "engine/plain_steps.py",
    "engine/step_budget.py",
    "engine/step_filling.py",
    "engine/backlog.py",
    "engine/eviction.py",
    "engine/scheduler.py",
    "engine/scripted.py",
    "engine/step_fit.py",
    "kvtransfer/link_fit.py",
    "router/policy.py",
    "router/reasons.py",
    "router/ways.py",
    "router/candidates.py",
    "router/loans.py",
    "router/options.py",
    "router/crowding.py",
    "router/prediction.py",
    "router/speed.py",
    "router/backlog.py",
    "router/accuracy.py",
    "router/affinity.py",
    "router/lanes.py",
    "router/waiting.py",
    "router/queue.py",
    "router/admission.py",
    "router/restraint.py",
    "router/health.py",
    "router/budget.py",
    "router/prefix_index.py",
    "router/cache_feed.py",
    "router/declines.py",
    "router/severed.py",
    "router/known_prefixes.py",
    "router/planner/*.py",
)
"""State in, decision out: the simulator runs these as they are."""

PURE_LIBRARIES = {"msgspec", "msgpack"}
IMPURE_STANDARD = {
    "asyncio", "socket", "threading", "subprocess", "multiprocessing", "selectors", "time",
}

NO_TORCH = (
    "baton.protocol.wire",
    "baton.protocol.link",
    "baton.engine.commands",
    "baton.engine.model.source",
    "baton.engine.tokenizer",
    "baton.kvtransfer.handoff",
    "baton.kvtransfer.peers",
    "baton.prefill",
    "baton.decode",
    "baton.router.http",
    "baton.router.control",
    "baton.deploy.cli",
    "baton.deploy.up",
    "baton.deploy.child",
    "baton.deploy.chat",
    "baton.deploy.doctor",
    "baton.deploy.joining",
    "baton.deploy.router_process",
)
LIGHT = ("baton.deploy.cli", "baton.deploy.child")
"""On the way of every start."""


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


@cache
def imported(path: Path) -> list[tuple[str, int]]:
    """(dotted module, line) of every import in a file, wherever it stands."""
    found: list[tuple[str, int]] = []
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            if node.module in ("baton", *(f"baton.{folder}" for folder in MAY_IMPORT)):
                found += [(f"{node.module}.{alias.name}", node.lineno) for alias in node.names]
            elif node.module is not None:
                found.append((node.module, node.lineno))
    return found


def is_inside(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


@pytest.mark.parametrize("folder", sorted(MAY_IMPORT))
def test_the_arrows_between_folders(folder: str) -> None:
    wrong = []
    for path in sources(folder):
        for module, line in imported(path):
            if not is_inside(module, "baton"):
                continue
            inner = module.removeprefix("baton.")
            allowed = MAY_IMPORT[folder] | {folder}
            if not any(is_inside(inner, package) for package in allowed):
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {module}")
    assert not wrong, "\n".join(wrong)


def test_pure_modules_are_pure() -> None:
    pure = {path for pattern in PURE for path in ROOT.glob(pattern)}
    names = {
        f"baton.{'.'.join(path.relative_to(ROOT).with_suffix('').parts)}".removesuffix(".__init__")
        for path in pure
    }
    wrong = []
    for path in sorted(pure):
        for module, line in imported(path):
            if is_inside(module, "baton"):
                fine = is_inside(module, "baton.protocol") or any(
                    is_inside(module, name) for name in names
                )
            elif module.partition(".")[0] in sys.stdlib_module_names:
                fine = module.partition(".")[0] not in IMPURE_STANDARD
            else:
                fine = module.partition(".")[0] in PURE_LIBRARIES
            if not fine:
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {module}")
    assert len(pure) > len(PURE), "the patterns match nothing"
    assert not wrong, "\n".join(wrong)


def loaded_by(modules: tuple[str, ...]) -> set[str]:
    """What a fresh interpreter has loaded after importing these."""
    code = f"import sys, {', '.join(modules)}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True
    )
    return {name.partition(".")[0] for name in done.stdout.split()}


def test_no_torch_where_it_is_not_needed() -> None:
    assert not loaded_by(NO_TORCH) & {"torch", "transformers", "triton"}


def test_the_command_is_light() -> None:
    heavy = {"torch", "transformers", "aiohttp", "pydantic", "numpy", "zmq", "tokenizers"}
    assert not loaded_by(LIGHT) & heavy
