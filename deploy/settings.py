"""What each process is told: frozen, every default written once, all checked on construction.

The launcher and the command line build these before any process starts; a child receives its own
as one line of JSON. Every class raises ConfigError, one line that names the option, its value and
what would be right.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TypeVar

import msgspec

from baton.engine.limits import ROLES
from baton.protocol.errors import ConfigError
from baton.protocol.kvlayout import DTYPE_BYTES
from baton.router.lanes import DEFAULT_LANES, Lane, Lanes

DTYPES = ("auto", *sorted(DTYPE_BYTES))
TRANSPORTS = ("ucx", "inproc")
SIZING = ("auto", "dry-run", "off")
LOOPBACK = "127.0.0.1"

_DEVICE = re.compile(r"cpu|cuda:\d+")
_BOUND = re.compile(r"tcp://(.+):(\d+)|ipc://.+")
_REMOTE = re.compile(r"(?:tcp://)?(.+):(\d+)")

SettingsT = TypeVar("SettingsT")


def check_range(option: str, value: float | None, low: float, high: float | None = None) -> None:
    """Raises ConfigError unless `value` is None or within [low, high]."""
    if value is None:
        return
    if not value >= low or (high is not None and value > high):
        bounds = f"at least {low}" if high is None else f"between {low} and {high}"
        raise ConfigError(f"{option} must be {bounds}, got {value}")


def check_choice(option: str, value: str, choices: Sequence[str]) -> None:
    """Raises ConfigError that lists the choices."""
    if value not in choices:
        raise ConfigError(f"{option} must be one of {', '.join(choices)}, got {value!r}")


def is_loopback(host: str) -> bool:
    """True when only this machine reaches a socket bound to `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def join_address(text: str) -> str:
    """`HOST:PORT`, `tcp://HOST:PORT` or `ipc://PATH` to a ZeroMQ address."""
    if text.startswith("ipc://") and len(text) > len("ipc://"):
        return text
    match = _REMOTE.fullmatch(text)
    if match is None or not 1 <= int(match[2]) <= 65535:
        raise ConfigError(f"--join must be HOST:PORT with a port from 1 to 65535, got {text!r}")
    return f"tcp://{match[1]}:{match[2]}"


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """What is served and how its KV is kept; the same for every process of a cluster."""

    model: str | None = None
    """Directory, `.gguf` file or hub id; None is the embedded model."""
    dtype: str = "auto"
    max_model_len: int | None = None
    """Tokens of prompt and output together; None is what the model was trained for."""
    block_size: int = 16
    """Tokens per KV block."""
    kv_blocks: int | None = None
    kv_memory: int | None = None
    """Bytes. At most one of the two; with neither, the worker takes a share of what is free."""
    kv_checksum: bool = False
    """Send a checksum of each KV block along, and compare it before the block is used."""
    kv_layer_groups: int | None = None
    """Into how many groups of layers the KV of a chunk is cut, to be sent while later layers are
    computed; 1: never; None: as measured of each pair of workers."""

    def __post_init__(self) -> None:
        check_choice("--dtype", self.dtype, DTYPES)
        check_range("--max-model-len", self.max_model_len, 2)
        check_range("--block-size", self.block_size, 1, 1024)
        if self.kv_blocks is not None and self.kv_memory is not None:
            raise ConfigError("--kv-blocks and --kv-memory say the same thing twice: give one")
        check_range("--kv-blocks", self.kv_blocks, 2)
        check_range("--kv-memory", self.kv_memory, 1 << 20)
        check_range("--kv-layer-groups", self.kv_layer_groups, 1, 1024)


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    worker_id: str
    role: str
    join: tuple[str, ...]
    """ZeroMQ addresses of routers, `tcp://HOST:PORT` or `ipc://PATH`."""
    device: str = "cpu"
    threads: int | None = None
    """Threads of the engine's arithmetic; None is one per core in `cpus`."""
    cpus: tuple[int, ...] | None = None
    """Logical CPUs this process pins itself to; None leaves the affinity as it is."""
    host: str = LOOPBACK
    """Where the peer socket listens, and the name by which other workers reach it."""
    model: ModelSettings = field(default_factory=ModelSettings)
    max_running: int = 64
    max_batch_tokens: int | None = None
    """Tokens computed in one step; None is what suits the device."""
    heartbeat_interval: float = 0.5
    """Seconds."""
    watchdog: float = 60.0
    """Seconds without a step while work is pending, after which the worker ends itself."""
    quarantine_share: float = 0.1
    """The part of the KV blocks that unfinished operations may hold back, in (0, 1]; beyond it
    the worker drains and starts anew."""
    memory_share: float = 1.0
    """The part of the device's memory that is this worker's to plan with, in (0, 1]."""
    transport: str = "ucx"
    profile_seconds: float = 0.4
    """For timing steps at the first start with a model on a device; with 0, only requests tell."""
    paced: str | None = None
    """A file of `baton profile`: there is no model, steps take the time that it says."""
    json_logs: bool = False

    def __post_init__(self) -> None:
        check_choice("--role", self.role, ROLES)
        if not self.worker_id:
            raise ConfigError("--id must not be empty")
        if not self.join:
            raise ConfigError("--join HOST:PORT is needed: the control address of a router")
        for address in self.join:
            join_address(address)
        if not _DEVICE.fullmatch(self.device):
            raise ConfigError(f"--device must be cpu or cuda:N, got {self.device!r}")
        check_range("--threads", self.threads, 1, 1024)
        check_limits(self)
        check_range("--heartbeat", self.heartbeat_interval, 0.01, 60)
        check_range("--watchdog", self.watchdog, 1)
        check_range("quarantine_share", self.quarantine_share, 0.001, 1)
        if self.model.kv_checksum and self.device != "cpu":
            raise ConfigError(
                f"--kv-checksum reads KV in host memory, and --device is {self.device}: leave one"
            )
        check_range("--memory-share", self.memory_share, 0.01, 1)
        check_choice("--transport", self.transport, TRANSPORTS)
        check_range("--profile-seconds", self.profile_seconds, 0, 60)


@dataclass(frozen=True, kw_only=True)
class RouterSettings:
    router_id: str = "router-0"
    host: str = LOOPBACK
    port: int = 8000
    """0 takes a free one."""
    listen_fd: int | None = None
    """A socket that listens there already: the launcher's, which outlives a restarted router."""
    control: tuple[str, ...] = ("tcp://127.0.0.1:7777",)
    """ZeroMQ addresses that workers dial: `tcp://HOST:PORT` (0 takes a free port), `ipc://PATH`."""
    api_key: str | None = field(default=None, repr=False)
    insecure: bool = False
    """Listen beyond loopback without a key."""
    served_model_name: str | None = None
    """The `model` of the API; None is the model's own name."""
    lanes: tuple[Lane, ...] = DEFAULT_LANES
    max_queue: int = 512
    """Requests of one lane that may wait while every worker is full, before 429."""
    sizing: str | None = None
    """Who changes the roles of workers: "auto" does, "dry-run" says what it would do, "off". None:
    "auto" where targets were given, else "dry-run"."""
    strict_roles: bool = False
    """Workers do nothing but their role while others can do the rest, whatever that costs."""
    journal: str = "auto"
    """Where accounts of requests are written: a file, "off", or "auto" for one of its own in the
    user's state directory."""
    model: ModelSettings = field(default_factory=ModelSettings)
    runtime_dir: str | None = None
    """The launcher's directory of sockets; the router removes it when the launcher is gone."""
    expected_workers: int = 0
    """The router calls itself ready once so many have joined."""
    json_logs: bool = False

    def __post_init__(self) -> None:
        check_endpoint(self)
        if not self.control:
            raise ConfigError("--control is needed: the address that workers dial")
        for address in self.control:
            if not _BOUND.fullmatch(address):
                raise ConfigError(
                    f"--control must be tcp://HOST:PORT or ipc://PATH, got {address!r}"
                )

    @property
    def sizing_mode(self) -> str:
        """Whoever says what latency is wanted wants it."""
        return self.sizing or ("dry-run" if self.lanes == DEFAULT_LANES else "auto")


@dataclass(frozen=True, kw_only=True)
class UpSettings:
    """A whole cluster on this machine: `baton up`."""

    model: ModelSettings = field(default_factory=ModelSettings)
    prefill: int = 0
    decode: int = 0
    mixed: int = 0
    host: str = LOOPBACK
    port: int = RouterSettings.port
    control_host: str = LOOPBACK
    control_port: int | None = None
    """TCP port for workers on other machines; None keeps control on private sockets."""
    api_key: str | None = field(default=None, repr=False)
    insecure: bool = False
    served_model_name: str | None = None
    lanes: tuple[Lane, ...] = DEFAULT_LANES
    max_queue: int = RouterSettings.max_queue
    sizing: str | None = None
    strict_roles: bool = False
    journal: str = RouterSettings.journal
    device: str = "auto"
    """"auto", "cpu" or "cuda"."""
    paced: str | None = None
    """As of a worker, for all of them."""
    max_running: int = WorkerSettings.max_running
    max_batch_tokens: int | None = None
    restart: bool = True
    json_logs: bool = False

    def __post_init__(self) -> None:
        for role in ROLES:
            check_range(f"--{role}", getattr(self, role), 0, 64)
        if not (self.prefill or self.decode or self.mixed):
            raise ConfigError("no workers: give at least one of --prefill, --decode, --mixed")
        if not self.mixed and not (self.prefill and self.decode):
            lacking = "decode" if self.prefill else "prefill"
            raise ConfigError(
                f"--{lacking} 0 leaves nobody to {lacking}: give --{lacking} N or --mixed N"
            )
        check_endpoint(self)
        check_limits(self)
        check_range("--control-port", self.control_port, 0, 65535)
        check_choice("--device", self.device, ("auto", "cpu", "cuda"))

    @property
    def roles(self) -> tuple[str, ...]:
        """One entry per worker."""
        return ("prefill",) * self.prefill + ("decode",) * self.decode + ("mixed",) * self.mixed


def check_endpoint(settings: RouterSettings | UpSettings) -> None:
    """Raises ConfigError for an HTTP endpoint that cannot be, or that anybody could use."""
    check_range("--port", settings.port, 0, 65535)
    check_range("--max-queue", settings.max_queue, 1)
    Lanes(settings.lanes)
    if settings.sizing is not None:
        check_choice("--sizing", settings.sizing, SIZING)
    if not settings.journal.strip():
        raise ConfigError("--journal must be a file, auto or off, got nothing")
    if settings.api_key is not None and not settings.api_key.strip():
        raise ConfigError("--api-key must not be empty")
    if not is_loopback(settings.host) and settings.api_key is None and not settings.insecure:
        raise ConfigError(
            f"--host {settings.host} is reachable from other machines: "
            "give --api-key KEY, or --insecure to serve without one"
        )


def check_limits(settings: WorkerSettings | UpSettings) -> None:
    """Raises ConfigError when a full batch of decodes would leave no room for prompts."""
    check_range("--max-running", settings.max_running, 1, 65536)
    check_range("--max-batch-tokens", settings.max_batch_tokens, settings.max_running + 1)


def worker_counts(
    prefill: int | None, decode: int | None, mixed: int | None
) -> tuple[int, int, int]:
    """What was not said: one prefill and one decode worker, or, with `--mixed` alone, only it."""
    if prefill is None and decode is None and mixed:
        return 0, 0, mixed
    return (1 if prefill is None else prefill), (1 if decode is None else decode), mixed or 0


def to_json(settings: WorkerSettings | RouterSettings) -> bytes:
    """One line, for `from_json` in another process."""
    return json.dumps(asdict(settings)).encode()


def from_json(line: bytes, kind: type[SettingsT]) -> SettingsT:
    """Raises ConfigError when the line is not a `kind`."""
    try:
        return msgspec.json.decode(line, type=kind)
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise ConfigError(f"settings are not a {kind.__name__}: {error}") from error

