"""The commands of `baton` that ask a running router something, or tell it."""

from __future__ import annotations

from typing import Annotated

import typer

from baton.deploy import options


def add_operating(app: typer.Typer) -> None:
    app.command(rich_help_panel="Operate")(drain)
    app.command(rich_help_panel="Operate")(role)
    app.command(rich_help_panel="Look")(top)
    app.command(rich_help_panel="Look")(explain)


def drain(
    worker: Annotated[
        str, typer.Argument(metavar="WORKER", help="Its id, as in /admin/workers.")
    ],
    undrain: Annotated[
        bool, typer.Option("--undrain", help="Let it take requests again.")
    ] = False,
    url: options.RouterUrl = options.ROUTER_URL,
    api_key: options.RouterKey = None,
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="Do not watch until it is empty.")
    ] = False,
) -> None:
    """Empty a worker: nothing new for it, and what it decodes moves to others.

    [bold]Example[/]

      baton drain decode-0 && kill ...        [dim]# nobody notices[/]
    """
    from baton.deploy.drain import DrainSettings, run_drain

    settings = DrainSettings(worker, url, api_key, undrain, not no_wait)
    raise typer.Exit(run_drain(settings))


def role(
    worker: Annotated[
        str, typer.Argument(metavar="WORKER", help="Its id, as in /admin/workers.")
    ],
    role: Annotated[
        str,
        typer.Argument(
            metavar="ROLE", help="prefill, decode or mixed; auto: leave it to the controller."
        ),
    ],
    url: options.RouterUrl = options.ROUTER_URL,
    api_key: options.RouterKey = None,
) -> None:
    """Choose a worker's role by hand. It stays so until you say auto, or it is started again.

    Nothing is lost or drained: what it runs, it runs to the end beside its new role.

    [bold]Example[/]

      baton role decode-0 prefill
    """
    from baton.deploy.role import RoleSettings, run_role

    raise typer.Exit(run_role(RoleSettings(worker, role, url, api_key)))


def top(
    url: options.RouterUrl = options.ROUTER_URL,
    api_key: options.RouterKey = None,
    interval: Annotated[
        float,
        typer.Option(
            help="Between looks.", parser=options.read_duration, metavar="DURATION",
            show_default="1s",
        ),
    ] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Look once and end.")] = False,
) -> None:
    """Watch pools, queues, KV use, latencies against their targets and the last requests.

    Ctrl-C ends it; nothing of the cluster does.
    """
    from baton.deploy.top import TopSettings, run_top

    raise typer.Exit(run_top(TopSettings(url, api_key, interval, once)))


def explain(
    request: Annotated[
        str,
        typer.Argument(metavar="REQUEST_ID", help="The `id` of a response, as in chatcmpl-..."),
    ],
    url: options.RouterUrl = options.ROUTER_URL,
    api_key: options.RouterKey = None,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Where a request went and why, what was expected of it, and what came of it."""
    from baton.deploy.explain import ExplainSettings, run_explain

    raise typer.Exit(run_explain(ExplainSettings(request, url, api_key, as_json)))
