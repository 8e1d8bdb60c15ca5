"""`baton explain`: where a request went, why, what was expected of it and what came of it."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from baton.deploy.asking import ask, session
from baton.protocol.units import format_duration

_WAYS = ("queue", "prefill", "exposed", "ttft", "itl", "itl_others", "harm")
_NAMES = {
    "queue": "waiting on the worker",
    "prefill": "computing the prompt",
    "exposed": "hand-off not hidden",
    "ttft": "first token",
    "itl": "between tokens",
    "itl_others": "between others' tokens",
    "harm": "others wait, in total",
}


@dataclass(frozen=True, slots=True)
class ExplainSettings:
    request: str
    url: str
    api_key: str | None = None
    json: bool = False


def run_explain(settings: ExplainSettings) -> int:
    """Returns the exit status. Raises ConfigError when the router cannot be reached or no longer
    knows the request."""
    return asyncio.run(_explain(settings))


async def _explain(settings: ExplainSettings) -> int:
    async with session(settings.api_key) as http:
        path = f"/admin/requests/{quote(settings.request, safe='')}"
        answer = await ask(http, settings.url, path)
    console = Console()
    if settings.json:
        console.print_json(data=answer)
    else:
        for account in answer["choices"]:
            console.print(render_account(account))
    return 0


def render_account(account: dict[str, Any]) -> RenderableType:
    """One choice, for a terminal. `account`: as JSON has it (router/account.py)."""
    outcome = account["outcome"]
    head = Text.assemble(
        (account["id"], "bold"), f"  {account['lane']}  ",
        (outcome, "green" if outcome in ("completed", "running") else "red"),
        f" ({account['finish']})" if account.get("finish") else "",
    )
    cached = account.get("cached_tokens")
    arrived = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(account["arrived"]))
    lines: list[RenderableType] = [
        head,
        f"arrived {arrived}, prompt {account['prompt_tokens']} tokens"
        + (f" ({cached} cached)" if cached is not None else "")
        + f", output {account.get('output_tokens', 0)} of at most {account['max_tokens']}",
    ]
    attempts = account.get("attempts", [])
    if not attempts:
        lines.append("it was never sent to a worker")
    for number, attempt in enumerate(attempts, start=1):
        lines += _attempt(account, attempt, number, last=number == len(attempts))
    if account.get("phases"):
        spent = ", ".join(f"{k} {format_duration(v)}" for k, v in account["phases"].items())
        lines.append(f"on the workers: {spent}")
    return Padding(Group(*lines), (0, 0, 1, 0))


def _attempt(
    account: dict[str, Any], attempt: dict[str, Any], number: int, *, last: bool
) -> list[RenderableType]:
    after = format_duration(attempt["at"])
    title = Text.assemble(
        f"attempt {number} after {after}: ", (route_of(attempt), "bold"),
        f", because {attempt['reason']}",
    )
    predicted = attempt.get("predicted")
    if predicted is None:
        return [title]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 2), header_style="dim")
    for column in ("", "expected", "was", "target"):
        table.add_column(column, justify="left" if not column else "right")
    for index in range(len(attempt.get("others", ()))):
        table.add_column(f"not taken {index + 1}", justify="right", style="dim")
    actual = _actual(account, attempt) if last else {}
    targets = {"ttft": account.get("ttft_target"), "itl": account.get("itl_target")}
    others = attempt.get("others", ())
    if others:
        table.add_row("", "", "", "", *(route_of(other) for other in others))
    for name in _WAYS:
        if name in predicted:
            table.add_row(
                _NAMES[name], _span(predicted[name]), _span(actual.get(name)),
                _span(targets.get(name)),
                *(_span((other.get("predicted") or {}).get(name)) for other in others),
            )
    return [title, table]


def _actual(account: dict[str, Any], attempt: dict[str, Any]) -> dict[str, float | None]:
    ttft = account.get("ttft")
    phases = account.get("phases", {})
    return {
        "ttft": None if ttft is None else ttft - attempt["at"],
        "itl": account.get("itl"),
        "queue": phases.get("queue"),
        "prefill": phases.get("prefill"),
        "exposed": phases.get("exposed"),
    }


def route_of(attempt: dict[str, Any]) -> str:
    """Who does what, in words."""
    if attempt.get("prefill"):
        return f"{attempt['prefill']} to {attempt['decode']}"
    return f"all on {attempt['decode']}"


def _span(seconds: float | None) -> str:
    return "" if seconds is None else format_duration(seconds)
