"""The commands of `baton` that measure. They are found by name: nothing in this package imports
the benchmarks."""

from __future__ import annotations

import importlib

import typer

from baton.protocol.errors import ConfigError

BENCHES = {
    "engine": ("baton.bench.engine", "step times of the engine, beside what the machine can do"),
    "transfer": ("baton.bench.transfer", "moving KV blocks between two processes over UCX"),
    "headroom": ("baton.bench.headroom", "prompts beside decodes: step times against the target"),
    "handoff": ("baton.bench.handoff", "from the first token to the second, seen by a client"),
    "overlap": ("baton.bench.overlap", "what a prefill hides of its hand-off, over a slow link"),
    "serve": ("baton.bench.serve.command", "load on any OpenAI-compatible server, measured"),
    "startup": ("baton.bench.startup", "from `baton up` to ready, part by part"),
    "faults": ("baton.bench.faults.command", "kills, stops, cut links, full pools, bad bytes"),
    "compare": ("baton.bench.compare.command", "colocated and disaggregated layouts, and others"),
    "map": ("baton.bench.compare.map", "who wins over prompt length, output length and rate"),
    "plot": ("baton.bench.plots.command", "pictures and a page of what was measured"),
    "routing": ("baton.bench.routing.command", "what a decision costs"),
    "planner": ("baton.bench.planning.accuracy.command", "its errors against what was published"),
    "simulator": ("baton.bench.simulation", "how fast the simulator is, and how reliable"),
}
PROFILE = "baton.bench.profile"

_ARGUMENTS_AS_THEY_ARE = {"allow_extra_args": True, "ignore_unknown_options": True}


def add_measuring(app: typer.Typer) -> None:
    """Their arguments are read by the benchmarks themselves."""
    for command in (profile, bench):
        app.command(
            rich_help_panel="Look",
            add_help_option=False,
            context_settings=_ARGUMENTS_AS_THEY_ARE,
        )(command)


def profile(context: typer.Context) -> None:
    """Measure how long steps of a model take here, for workers, planner and simulator.

    `baton profile --help` shows its options.
    """
    raise typer.Exit(importlib.import_module(PROFILE).main(context.args) or 0)


def bench(context: typer.Context) -> None:
    """Measure a part: [bold]baton bench engine[/], [bold]baton bench transfer[/].

    `baton bench NAME --help` shows its options.
    """
    name, *arguments = context.args or ["--help"]
    if name in ("-h", "--help"):
        typer.echo("Usage: baton bench NAME [OPTIONS]; `baton bench NAME --help` says more.\n")
        for known, (_, what) in BENCHES.items():
            typer.echo(f"  {known:<10} {what}")
        return
    if name not in BENCHES:
        raise ConfigError(f"no benchmark {name!r}; there are: {', '.join(BENCHES)}")
    raise typer.Exit(importlib.import_module(BENCHES[name][0]).main(arguments) or 0)
