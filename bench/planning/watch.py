"""`baton plan --watch URL`: a running cluster beside its plan, again and again; with --apply its
workers get the roles that fit what comes."""

from __future__ import annotations

import argparse
import asyncio
import math
import time
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from baton.bench.planning.fair import fair
from baton.bench.planning.figures import figure
from baton.bench.planning.inputs import USUAL, duration, read_wishes
from baton.bench.planning.journals import read_journal
from baton.bench.planning.live import Findings, Look, compare, look_of
from baton.bench.planning.plan import read_plan
from baton.deploy.asking import ask, session
from baton.deploy.role import RoleSettings, run_role
from baton.protocol.errors import ConfigError
from baton.protocol.units import format_duration
from baton.router.account import Account

_LIMIT = 2000
"""Requests that a router is asked for."""


def watch(options: argparse.Namespace) -> int:
    """Until Ctrl-C, or once. Returns the exit code. Raises ConfigError when the first look fails;
    later ones are told of and tried again, because routers are restarted."""
    plan = None if options.plan is None else read_plan(options.plan)
    usual = read_wishes(options, USUAL)
    every = duration("--every", options.every)
    console = Console()

    def look_once() -> None:
        look = asyncio.run(fetch(options.watch, options.api_key, options.journal))
        findings = compare(look, plan, usual)
        show(findings, look, console, applying=options.apply)
        if options.apply:
            apply(findings, options.watch, options.api_key)

    try:
        look_once()
        while not options.once:
            time.sleep(every)
            try:
                look_once()
            except ConfigError as error:
                console.print(f"{error}; looking again in {format_duration(every)}",
                              highlight=False, markup=False, soft_wrap=True)
    except KeyboardInterrupt:
        pass
    return 0


async def fetch(url: str, api_key: str | None, journal: Any = None) -> Look:
    async with session(api_key) as http:
        overview = await ask(http, url, "/admin/overview")
        sizing = await ask(http, url, "/admin/sizing")
        told = await ask(http, url, f"/admin/decisions?limit={_LIMIT}")
    try:
        accounts = msgspec.convert(told["decisions"], list[Account])
    except (KeyError, msgspec.ValidationError) as error:
        raise ConfigError(f"{url} tells of its requests in another form: {error}") from error
    if journal is not None:
        known = {account.id for account in accounts}
        accounts += [account for account in read_journal(journal) if account.id not in known]
    return look_of(overview, sizing, fair(
        accounts, forgets=journal is None and len(accounts) >= _LIMIT,
        in_flight=overview.get("in_flight", 0),
    ))


def apply(findings: Findings, url: str, api_key: str | None) -> None:
    """Change the roles, one after another; each is there before the next. Raises ConfigError at
    the first worker that does not take its role."""
    for move in findings.moves:
        run_role(RoleSettings(move.worker, move.role, url, api_key))


def show(findings: Findings, look: Look, console: Console, *, applying: bool) -> None:
    console.print(f"[bold]{look.split}[/], {findings.requests} requests that ended",
                  highlight=False)
    if findings.compared:
        table = Table()
        table.add_column("")
        for column in ("planned", "closed form", "seen", "off"):
            table.add_column(column, justify="right")
        for entry in findings.compared:
            table.add_row(
                entry.what, *(_value(v, entry.unit) for v in
                              (entry.planned, entry.expected, entry.seen)),
                "" if entry.off is None else f"{entry.off:+.0%}",
            )
        console.print(table)
    for error in findings.errors:
        console.print(
            f"the router's own predictions of {error.what}: half within {error.median:.0%}, nine "
            f"in ten within {error.p90:.0%}, {error.bias:+.0%} in the middle "
            f"({error.requests} requests)", highlight=False,
        )
    for remark in findings.remarks:
        console.print(remark, highlight=False, markup=False)
    console.print(advice(findings, look, applying=applying), highlight=False, markup=False)


def advice(findings: Findings, look: Look, *, applying: bool) -> str:
    """What it would change, in words."""
    here, best = findings.here, findings.best
    if here is None:
        return "nothing to say yet"
    if not findings.moves or best is None:
        return (
            f"no change: {look.split} is expected to attain {here.goodput:.1%} of what comes"
            + (f", {best.split} {best.goodput:.1%}" if best and best.split != look.split else "")
        )
    moves = ", ".join(f"{m.worker} {m.before} -> {m.role}" for m in findings.moves)
    return (
        f"{'changing' if applying else 'it would change'} {moves}: {best.split} is expected to "
        f"attain {best.goodput:.1%} where {look.split} attains {here.goodput:.1%}"
        + ("" if applying else " (--apply does it)")
    )


def _value(value: float | None, unit: str) -> str:
    if value is None:
        return ""
    if not math.isfinite(value):
        return "never"
    return format_duration(value) if unit == "s" else figure(value)
