"""The `baton` command. Each command imports what it needs when it runs, so that `--help` is
immediate and nothing here knows torch."""

from __future__ import annotations

import secrets
import socket
import sys
from typing import Annotated

import typer

from baton.deploy import options
from baton.deploy.measuring import add_measuring
from baton.deploy.operating import add_operating
from baton.deploy.options import model_settings
from baton.deploy.planning import add_planning
from baton.deploy.settings import (
    LOOPBACK,
    ModelSettings,
    RouterSettings,
    UpSettings,
    WorkerSettings,
    check_choice,
    is_loopback,
    join_address,
    worker_counts,
)
from baton.engine.limits import ROLES
from baton.protocol.errors import ConfigError
from baton.router.lanes import configure

app = typer.Typer(
    name="baton",
    help="Serve a large language model, split over prefill and decode workers.\n\n"
    "Begin with [bold]baton up[/], then [bold]baton chat[/] in another terminal.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command(rich_help_panel="Serve")
def up(
    model: options.Model = None,
    prefill: Annotated[
        int | None,
        typer.Option(help="Prefill workers: they read prompts.", show_default="1"),
    ] = None,
    decode: Annotated[
        int | None,
        typer.Option(help="Decode workers: they write tokens.", show_default="1"),
    ] = None,
    mixed: Annotated[
        int | None,
        typer.Option(
            help="Workers that do both. Given alone, there are no others.", show_default="0"
        ),
    ] = None,
    dtype: options.Dtype = ModelSettings.dtype,
    max_model_len: options.MaxModelLen = None,
    block_size: options.BlockSize = ModelSettings.block_size,
    kv_blocks: options.KvBlocks = None,
    kv_memory: options.KvMemory = None,
    kv_checksum: options.KvChecksum = False,
    kv_layer_groups: options.KvLayerGroups = None,
    host: options.Host = UpSettings.host,
    port: options.Port = UpSettings.port,
    api_key: options.ApiKey = None,
    insecure: options.Insecure = False,
    control_port: Annotated[
        int | None,
        typer.Option(
            help="Also let workers started elsewhere join, at this TCP port.",
            show_default="none",
            rich_help_panel="Network",
        ),
    ] = None,
    control_host: Annotated[
        str,
        typer.Option(
            help="Where that port listens. It has no authentication: trusted networks only.",
            rich_help_panel="Network",
        ),
    ] = UpSettings.control_host,
    served_model_name: options.ServedModelName = None,
    device: options.Device = UpSettings.device,
    no_restart: Annotated[
        bool,
        typer.Option(
            "--no-restart", help="Leave a worker that died dead.", rich_help_panel="Serving"
        ),
    ] = False,
    json_logs: options.JsonLogs = False,
    ttft: options.Ttft = None,
    itl: options.Itl = None,
    lane: options.LaneSpecs = None,
    sizing: options.Sizing = None,
    strict_roles: options.StrictRoles = False,
    max_queue: options.MaxQueue = UpSettings.max_queue,
    paced: options.Paced = None,
    journal: options.Journal = UpSettings.journal,
    max_running: options.MaxRunning = UpSettings.max_running,
    max_batch_tokens: options.MaxBatchTokens = None,
) -> None:
    """Serve a model on this machine: a router and its workers.

    CPU cores are divided among the workers; on GPUs each worker has its own. Ctrl-C ends it all.

    [bold]Examples[/]

      baton up                                [dim]# the embedded model, 1 + 1 workers[/]

      baton up Qwen/Qwen2.5-0.5B-Instruct --prefill 2 --decode 2 --ttft 300ms --itl 40ms

      baton up ./model.gguf --mixed 1         [dim]# one worker does both[/]

      baton up --host 0.0.0.0 --api-key KEY   [dim]# reachable from elsewhere[/]
    """
    from baton.deploy.up import run_up

    prefills, decodes, mixeds = worker_counts(prefill, decode, mixed)
    settings = UpSettings(
        model=model_settings(
            model, dtype, max_model_len, block_size, kv_blocks, kv_memory, kv_checksum,
            kv_layer_groups,
        ),
        prefill=prefills,
        decode=decodes,
        mixed=mixeds,
        host=host,
        port=port,
        control_host=control_host,
        control_port=control_port,
        api_key=api_key,
        insecure=insecure,
        served_model_name=served_model_name,
        device=device,
        lanes=configure(ttft, itl, lane or ()),
        sizing=sizing,
        strict_roles=strict_roles,
        max_queue=max_queue,
        paced=None if paced is None else str(paced),
        journal=journal,
        max_running=max_running,
        max_batch_tokens=max_batch_tokens,
        restart=not no_restart,
        json_logs=json_logs,
    )
    raise typer.Exit(run_up(settings))


@app.command(rich_help_panel="Serve")
def router(
    model: options.Model = None,
    control: Annotated[
        list[str] | None,
        typer.Option(
            help="HOST:PORT that workers join; repeat for several. No authentication: trusted "
            "networks only.",
            show_default="127.0.0.1:7777",
            rich_help_panel="Network",
        ),
    ] = None,
    host: options.Host = RouterSettings.host,
    port: options.Port = RouterSettings.port,
    api_key: options.ApiKey = None,
    insecure: options.Insecure = False,
    dtype: options.Dtype = ModelSettings.dtype,
    max_model_len: options.MaxModelLen = None,
    block_size: options.BlockSize = ModelSettings.block_size,
    served_model_name: options.ServedModelName = None,
    router_id: Annotated[
        str, typer.Option("--id", help="The name it keeps over restarts.")
    ] = RouterSettings.router_id,
    json_logs: options.JsonLogs = False,
    ttft: options.Ttft = None,
    itl: options.Itl = None,
    lane: options.LaneSpecs = None,
    sizing: options.Sizing = None,
    strict_roles: options.StrictRoles = False,
    max_queue: options.MaxQueue = RouterSettings.max_queue,
    journal: options.Journal = RouterSettings.journal,
) -> None:
    """Start a router alone: the HTTP API, to which workers come.

    [bold]Example[/]

      baton router --host 0.0.0.0 --api-key "$KEY" --control 10.0.0.1:7777
    """
    settings = RouterSettings(
        router_id=router_id,
        host=host,
        port=port,
        control=tuple(map(_control_address, control)) if control else RouterSettings.control,
        api_key=api_key,
        insecure=insecure,
        served_model_name=served_model_name,
        lanes=configure(ttft, itl, lane or ()),
        sizing=sizing,
        strict_roles=strict_roles,
        max_queue=max_queue,
        journal=journal,
        model=model_settings(model, dtype, max_model_len, block_size, None, None),
        json_logs=json_logs,
    )
    from baton.deploy.child import guarded_router
    from baton.deploy.logs import set_up_logging
    from baton.deploy.status import StatusWriter

    set_up_logging(settings.router_id, json_logs=json_logs)
    raise typer.Exit(guarded_router(settings, StatusWriter()))


@app.command(rich_help_panel="Serve")
def worker(
    role: Annotated[str, typer.Option(help=f"One of {', '.join(ROLES)}.")],
    join: Annotated[
        list[str],
        typer.Option(
            help="HOST:PORT of a router's --control; repeat for several routers.",
            metavar="HOST:PORT",
        ),
    ],
    model: options.Model = None,
    device: Annotated[
        str, typer.Option(help="cpu or cuda:N.", rich_help_panel="Resources")
    ] = WorkerSettings.device,
    threads: Annotated[
        int | None,
        typer.Option(
            help="Of the engine's arithmetic.",
            show_default="one per core",
            rich_help_panel="Resources",
        ),
    ] = None,
    cpus: Annotated[
        str | None,
        typer.Option(
            help="Pin to these CPUs, such as 0-3,8.",
            metavar="LIST",
            show_default="no pinning",
            rich_help_panel="Resources",
        ),
    ] = None,
    host: Annotated[
        str | None,
        typer.Option(
            help="Where other workers reach this one.",
            show_default="the address that leads to the router",
            rich_help_panel="Network",
        ),
    ] = None,
    dtype: options.Dtype = ModelSettings.dtype,
    max_model_len: options.MaxModelLen = None,
    block_size: options.BlockSize = ModelSettings.block_size,
    kv_blocks: options.KvBlocks = None,
    kv_memory: options.KvMemory = None,
    kv_checksum: options.KvChecksum = False,
    kv_layer_groups: options.KvLayerGroups = None,
    worker_id: Annotated[
        str | None,
        typer.Option(
            "--id", help="The name it keeps over restarts.", show_default="ROLE-HOSTNAME-random"
        ),
    ] = None,
    max_running: options.MaxRunning = WorkerSettings.max_running,
    max_batch_tokens: options.MaxBatchTokens = None,
    paced: options.Paced = None,
    watchdog: Annotated[
        float,
        typer.Option(
            help="End when work is pending and no step ends for so long.",
            parser=options.read_duration,
            metavar="DURATION",
            rich_help_panel="Limits",
        ),
    ] = WorkerSettings.watchdog,
    json_logs: options.JsonLogs = False,
) -> None:
    """Start a worker alone, here or on another machine than the router.

    It keeps dialling until the router is there, and again whenever it is lost.

    [bold]Example[/]

      baton worker --role decode --join 10.0.0.1:7777
    """
    check_choice("--role", role, ROLES)
    addresses = tuple(join_address(address) for address in join)
    settings = WorkerSettings(
        worker_id=worker_id or f"{role}-{socket.gethostname()}-{secrets.token_hex(2)}",
        role=role,
        join=addresses,
        device=device,
        threads=threads,
        cpus=None if cpus is None else options.read_cpus(cpus),
        host=host or _address_towards(addresses[0]),
        model=model_settings(
            model, dtype, max_model_len, block_size, kv_blocks, kv_memory, kv_checksum,
            kv_layer_groups,
        ),
        max_running=max_running,
        max_batch_tokens=max_batch_tokens,
        paced=None if paced is None else str(paced),
        watchdog=watchdog,
        json_logs=json_logs,
    )
    from baton.deploy.child import guarded_worker
    from baton.deploy.logs import set_up_logging
    from baton.deploy.status import StatusWriter

    set_up_logging(settings.worker_id, json_logs=json_logs)
    raise typer.Exit(guarded_worker(settings, StatusWriter()))


@app.command(rich_help_panel="Use")
def chat(
    url: Annotated[
        str, typer.Option(help="Of any OpenAI-compatible server.")
    ] = f"http://{LOOPBACK}:{UpSettings.port}",
    model: Annotated[
        str | None, typer.Option(help="Its name.", show_default="the first one served")
    ] = None,
    system: Annotated[
        str | None, typer.Option(help="System message.", show_default="none")
    ] = None,
    api_key: Annotated[
        str | None, typer.Option(envvar="BATON_API_KEY", show_default=False)
    ] = None,
    max_tokens: Annotated[int, typer.Option(help="Of one answer.")] = 512,
    temperature: Annotated[
        float | None, typer.Option(help="0 is greedy.", show_default="the server's")
    ] = None,
) -> None:
    """Talk to the model in the terminal. Ctrl-C stops an answer, Ctrl-D leaves.

    [bold]Examples[/]

      baton chat

      echo "Name three rivers." | baton chat  [dim]# one question, one answer[/]
    """
    from baton.deploy.chat import ChatSettings, run_chat

    settings = ChatSettings(url, model, system, api_key, max_tokens, temperature)
    raise typer.Exit(run_chat(settings))


@app.command(rich_help_panel="Look")
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """What this machine has for serving, and what each lack costs."""
    from baton.deploy.doctor import run_doctor

    raise typer.Exit(run_doctor(as_json=as_json))


add_operating(app)
add_planning(app)
add_measuring(app)


@app.command(rich_help_panel="Look")
def version() -> None:
    """Print the version."""
    from importlib.metadata import version as version_of

    typer.echo(f"baton {version_of('baton-serve')}")


def _control_address(text: str) -> str:
    """`HOST:PORT` to what the router binds."""
    if text.startswith("ipc://"):
        return text
    host, colon, port = text.removeprefix("tcp://").rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise ConfigError(f"--control must be HOST:PORT, got {text!r}")
    return f"tcp://{host}:{port}"


def _address_towards(router: str) -> str:
    """The address of this machine that packets to a router leave from. No packet is sent."""
    host = router.removeprefix("tcp://").rpartition(":")[0].strip("[]")
    if router.startswith("ipc://") or is_loopback(host):
        return LOOPBACK
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, 9, type=socket.SOCK_DGRAM
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(address)
            return str(probe.getsockname()[0])
    except OSError:
        # The router's name may not exist yet: parts start in any order.
        try:
            return socket.gethostbyname(socket.gethostname())
        except OSError as error:
            raise ConfigError(
                "cannot tell by which address other workers reach this one "
                f"({error.strerror}): give --host ADDRESS"
            ) from error


def main() -> None:
    """Entry point of the console script."""
    try:
        app(prog_name="baton")
    except ConfigError as error:
        print(f"baton: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
