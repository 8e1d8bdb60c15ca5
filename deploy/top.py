"""`baton top`: pools, queues, KV use, latencies against targets and recent decisions, live."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import aiohttp
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from baton.deploy.asking import ask, session
from baton.deploy.explain import route_of
from baton.protocol.errors import ConfigError
from baton.protocol.units import format_duration

_BAR = 16
_STATES = {"active": "green", "held": "cyan", "quarantined": "red", "cached": "grey50"}


@dataclass(frozen=True, slots=True)
class TopSettings:
    url: str
    api_key: str | None = None
    interval: float = 1.0
    """Seconds between looks."""
    once: bool = False


def run_top(settings: TopSettings) -> int:
    """Until Ctrl-C, or once. Returns the exit status. Raises ConfigError when the router cannot
    be reached at the first look; later it says so and goes on."""
    return asyncio.run(_top(settings))


async def _top(settings: TopSettings) -> int:
    console = Console()
    async with session(settings.api_key) as http:
        look = await _look(http, settings.url)
        if settings.once or not console.is_terminal:
            console.print(look)
            return 0
        with Live(look, console=console, screen=True, auto_refresh=False) as live:
            while True:
                await asyncio.sleep(settings.interval)
                try:
                    look = await _look(http, settings.url)
                except ConfigError as error:
                    look = Text(f"{error}; still trying", style="red")
                live.update(look, refresh=True)


async def _look(http: aiohttp.ClientSession, url: str) -> RenderableType:
    overview = await ask(http, url, "/admin/overview")
    return render(overview, await ask(http, url, "/admin/sizing"), url)


def render(overview: dict[str, Any], sizing: dict[str, Any], url: str) -> RenderableType:
    """One look: the answers of GET /admin/overview and /admin/sizing."""
    head = Text.assemble(
        (f"{overview['model'] or 'no model yet'}", "bold"),
        f" at {url}, {overview['in_flight']} in flight, {overview['queue']} waiting here",
    )
    parts: list[RenderableType] = [
        head, "", _lanes(overview["lanes"]), "", _workers(overview["workers"])
    ]
    parts += ["", Text.assemble(("sizing ", "bold"), _sizing(sizing))]
    if overview["decisions"]:
        parts += ["", _decisions(overview["decisions"])]
    return Group(*parts)


def _sizing(sizing: dict[str, Any]) -> str:
    """What was decided last, and why."""
    mode, last = sizing["mode"], sizing["last"]
    if mode == "off":
        return "off: roles stay as they are"
    if not sizing["leads"]:
        return f"{mode}, led by {sizing['leader']}"
    if last is None:
        return f"{mode}, nothing decided yet"
    moves = ", ".join(f"{move['worker']} to {move['role']}" for move in last["moves"])
    return (
        f"{mode}, {format_duration(max(0.0, last['age']))} ago: {moves or 'roles stay'}; "
        f"{last['reason']}"
    )


def _lanes(lanes: list[dict[str, Any]]) -> Table:
    table = _table("lane", "waiting", "req/s", "first token p50", "p95", "target",
                   "between tokens p50", "p95", "target", "attained", "refused")
    for lane in lanes:
        ended = lane.get("summary")
        ttft, itl = (ended or {}).get("ttft", {}), (ended or {}).get("itl", {})
        attained = None if ended is None else ended["attained"]
        table.add_row(
            lane["name"],
            str(lane["waiting"]),
            "" if ended is None else f"{ended['per_second']:.1f}",
            _against(ttft.get("p50"), lane["ttft"]),
            _against(ttft.get("p95"), lane["ttft"]),
            format_duration(lane["ttft"]),
            _against(itl.get("p50"), lane["itl"]),
            _against(itl.get("p95"), lane["itl"]),
            format_duration(lane["itl"]),
            "" if attained is None else Text(
                f"{attained:.1%}", style="green" if attained >= 0.9 else "red"
            ),
            "" if ended is None else str(ended["refused"]),
        )
    return table


def _workers(workers: list[dict[str, Any]]) -> Table:
    table = _table("worker", "role", "state", "ours", "running", "waiting", "prompts ahead",
                   "KV", "of blocks", "step age")
    for worker in workers:
        load = worker["load"] or {}
        table.add_row(
            worker["id"],
            worker["role"],
            Text(worker["state"], style="" if worker["state"] == "ready" else "yellow"),
            str(worker["outstanding"]),
            _count(load.get("running")),
            _count(load.get("waiting")),
            _ahead(load),
            _bar(worker["blocks"]),
            str(worker["num_blocks"]),
            "" if not load.get("step_age") else format_duration(load["step_age"]),
        )
    return table


def _decisions(accounts: list[dict[str, Any]]) -> Table:
    table = _table("last requests", "lane", "prompt", "way", "reason", "first token", "expected",
                   "outcome", left=5)
    for account in accounts:
        attempts = account.get("attempts", [])
        last = attempts[-1] if attempts else None
        predicted = (last or {}).get("predicted") or {}
        table.add_row(
            account["id"][:24],
            account["lane"],
            str(account["prompt_tokens"]),
            "" if last is None else route_of(last),
            "" if last is None else last["reason"],
            "" if account.get("ttft") is None else format_duration(account["ttft"]),
            "" if last is None or "ttft" not in predicted
            else format_duration(last["at"] + predicted["ttft"]),
            account.get("finish") or account["outcome"],
        )
    return table


def _table(*columns: str, left: int = 1) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold dim")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index < left else "right", no_wrap=True)
    return table


def _against(seconds: float | None, target: float) -> Text:
    if seconds is None:
        return Text("")
    return Text(format_duration(seconds), style="green" if seconds <= target else "red")


def _ahead(load: dict[str, Any]) -> str:
    """Prompts that are not computed yet."""
    if not load.get("waiting_tokens"):
        return ""
    seconds = load.get("backlog_seconds")
    tokens = f"{load['waiting_tokens']:.0f} tokens"
    return tokens if seconds is None else f"{tokens}, {format_duration(seconds)}"


def _bar(blocks: dict[str, int] | None) -> Text:
    """The pool by state: in use, on its way, quarantined, cached, free."""
    bar = Text()
    total = sum((blocks or {}).values())
    if not blocks or not total:
        return bar
    used = 0
    for state, style in _STATES.items():
        share = blocks.get(state, 0) / total
        width = min(_BAR - used, max(round(share * _BAR), 1 if share else 0))
        bar.append("█" * width, style=style)
        used += width
    bar.append("·" * (_BAR - used), style="dim")
    busy = sum(blocks.get(state, 0) for state in ("active", "held", "quarantined")) / total
    bar.append(f" {busy:4.0%}")
    return bar


def _count(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}"
