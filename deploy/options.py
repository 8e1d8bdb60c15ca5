"""Options that several commands of `baton` share, and how their values are read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from baton.deploy.settings import DTYPES, LOOPBACK, ModelSettings, RouterSettings
from baton.protocol.units import parse_bytes, parse_duration

_MODEL, _SERVING, _NETWORK, _LIMITS = "Model", "Serving", "Network", "Limits"
_TARGETS = "Targets"


def read_bytes(text: str | int) -> int:
    """`"2GiB"` to bytes, for typer."""
    if isinstance(text, int):
        return text
    try:
        return parse_bytes(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def read_duration(text: str | float) -> float:
    """`"300ms"` to seconds, for typer."""
    if isinstance(text, float):
        return text
    try:
        return parse_duration(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def read_cpus(text: str) -> tuple[int, ...]:
    """`"0-3,8"` to CPU numbers. Raises typer.BadParameter."""
    from baton.deploy.topology import parse_cpu_list

    try:
        return parse_cpu_list(text)
    except ValueError as error:
        raise typer.BadParameter(
            f"{text!r} is not a list of CPUs such as 0-3,8", param_hint="--cpus"
        ) from error


Model = Annotated[
    str | None,
    typer.Argument(
        help="A Hugging Face directory, a .gguf file or a hub id such as "
        "Qwen/Qwen2.5-0.5B-Instruct. Left out: the embedded SmolLM2-135M-Instruct.",
        show_default=False,
    ),
]
Dtype = Annotated[
    str,
    typer.Option(
        help=f"Of weights and KV: {', '.join(DTYPES)}. auto takes what suits model and machine.",
        rich_help_panel=_MODEL,
    ),
]
MaxModelLen = Annotated[
    int | None,
    typer.Option(
        help="Tokens of prompt and output together.",
        show_default="the model's",
        rich_help_panel=_MODEL,
    ),
]
BlockSize = Annotated[int, typer.Option(help="Tokens per KV block.", rich_help_panel=_MODEL)]
KvBlocks = Annotated[
    int | None,
    typer.Option(
        help="KV blocks of each worker.",
        show_default="from free memory",
        rich_help_panel=_MODEL,
    ),
]
KvMemory = Annotated[
    int | None,
    typer.Option(
        help="The same as a size, such as 2GiB.",
        parser=read_bytes,
        metavar="SIZE",
        show_default=False,
        rich_help_panel=_MODEL,
    ),
]
KvChecksum = Annotated[
    bool,
    typer.Option(
        "--kv-checksum",
        help="Send a checksum with each KV block and compare it before the block is used.",
        rich_help_panel=_MODEL,
    ),
]
KvLayerGroups = Annotated[
    int | None,
    typer.Option(
        help="Groups of layers that KV is sent in while later layers are computed; 1: never.",
        rich_help_panel=_MODEL,
        show_default="as measured for each pair of workers",
    ),
]
Host = Annotated[
    str,
    typer.Option(
        help="Where HTTP listens. Beyond loopback an --api-key is required.",
        rich_help_panel=_NETWORK,
    ),
]
Port = Annotated[
    int, typer.Option(help="HTTP port; 0 takes a free one.", rich_help_panel=_NETWORK)
]
ApiKey = Annotated[
    str | None,
    typer.Option(
        help="Clients must send it as bearer token.",
        envvar="BATON_API_KEY",
        show_default=False,
        rich_help_panel=_NETWORK,
    ),
]
Insecure = Annotated[
    bool,
    typer.Option(
        "--insecure", help="Listen beyond loopback without a key.", rich_help_panel=_NETWORK
    ),
]
ServedModelName = Annotated[
    str | None,
    typer.Option(
        help="What the API calls the model.",
        show_default="the model's name",
        rich_help_panel=_SERVING,
    ),
]
JsonLogs = Annotated[
    bool,
    typer.Option("--json-logs", help="Log JSON, one object per line.", rich_help_panel=_SERVING),
]
Device = Annotated[
    str,
    typer.Option(
        help="auto, cpu or cuda. auto uses GPUs where the installed torch can.",
        rich_help_panel=_SERVING,
    ),
]
Ttft = Annotated[
    float | None,
    typer.Option(
        help="Target of the interactive lane: from a request to its first token.",
        parser=read_duration,
        metavar="DURATION",
        show_default="2s",
        rich_help_panel=_TARGETS,
    ),
]
Itl = Annotated[
    float | None,
    typer.Option(
        help="And between its tokens.",
        parser=read_duration,
        metavar="DURATION",
        show_default="100ms",
        rich_help_panel=_TARGETS,
    ),
]
LaneSpecs = Annotated[
    list[str] | None,
    typer.Option(
        "--lane",
        help="Change or add a lane: NAME:ttft=60s,itl=1s,patience=10m,weight=1, or a part of that; "
        "repeat for several. Patience: what would have to wait longer is refused at once.",
        metavar="NAME:...",
        show_default="interactive and batch",
        rich_help_panel=_TARGETS,
    ),
]
Sizing = Annotated[
    str | None,
    typer.Option(
        help="Change the roles of workers as the load changes: auto, dry-run (only say so at "
        "/admin/sizing) or off.",
        metavar="MODE",
        show_default="auto with --ttft, --itl or --lane, else dry-run",
        rich_help_panel=_TARGETS,
    ),
]
StrictRoles = Annotated[
    bool,
    typer.Option(
        "--strict-roles",
        help="Every prompt at a prefill worker, every token at a decode worker, even where one of "
        "them could do both at less cost.",
        rich_help_panel=_TARGETS,
    ),
]
MaxQueue = Annotated[
    int,
    typer.Option(
        help="Requests of one lane that may wait while every worker is full, before 429.",
        rich_help_panel=_LIMITS,
    ),
]
Paced = Annotated[
    Path | None,
    typer.Option(
        help="A file of `baton profile`: no model is loaded, steps take the time that it says and "
        "tokens are made up. For trying out machines that are not there.",
        metavar="PROFILE.json",
        exists=True,
        dir_okay=False,
        resolve_path=True,
        show_default=False,
        rich_help_panel=_SERVING,
    ),
]
Journal = Annotated[
    str,
    typer.Option(
        help="Write an account of each request here (times, lengths, decisions; no text): a file, "
        "auto (in the user's state directory) or off.",
        metavar="FILE|auto|off",
        envvar="BATON_JOURNAL",
        rich_help_panel=_SERVING,
    ),
]
MaxRunning = Annotated[
    int, typer.Option(help="Sequences that one worker runs at once.", rich_help_panel=_LIMITS)
]
MaxBatchTokens = Annotated[
    int | None,
    typer.Option(
        help="Tokens that one step computes.",
        rich_help_panel=_LIMITS,
        show_default="512 on a CPU, 8192 on a GPU",
    ),
]

ROUTER_URL = f"http://{LOOPBACK}:{RouterSettings.port}"
RouterUrl = Annotated[str, typer.Option("--url", help="Of the router.")]
RouterKey = Annotated[
    str | None, typer.Option("--api-key", envvar="BATON_API_KEY", show_default=False)
]


def model_settings(
    model: str | None,
    dtype: str,
    max_model_len: int | None,
    block_size: int,
    kv_blocks: int | None,
    kv_memory: int | None,
    kv_checksum: bool = False,
    kv_layer_groups: int | None = None,
) -> ModelSettings:
    """The model's options, checked. Raises ConfigError."""
    return ModelSettings(
        model=model,
        dtype=dtype,
        max_model_len=max_model_len,
        block_size=block_size,
        kv_blocks=kv_blocks,
        kv_memory=kv_memory,
        kv_checksum=kv_checksum,
        kv_layer_groups=kv_layer_groups,
    )
