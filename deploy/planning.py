"""The commands of `baton` that plan. They are found by name, as those that measure."""

from __future__ import annotations

import importlib

import typer

COMMANDS = {
    "plan": "baton.bench.planning.command",
    "simulate": "baton.bench.planning.simulate",
}


def add_planning(app: typer.Typer) -> None:
    """Their arguments are read by the commands themselves."""
    for command in (plan, simulate):
        app.command(
            rich_help_panel="Plan",
            add_help_option=False,
            context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
        )(command)


def plan(context: typer.Context) -> None:
    """How many workers of which role, and whether disaggregation pays, before there are any.

    `baton plan --help` shows its options, with examples.
    """
    raise typer.Exit(_main("plan", context))


def simulate(context: typer.Context) -> None:
    """One layout in simulated time, or what recorded traffic would have met with another.

    `baton simulate --help` shows its options, with examples.
    """
    raise typer.Exit(_main("simulate", context))


def _main(name: str, context: typer.Context) -> int:
    code: int = importlib.import_module(COMMANDS[name]).main(context.args) or 0
    return code
