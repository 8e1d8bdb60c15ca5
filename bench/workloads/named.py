"""All workloads that have a name."""

from __future__ import annotations

from baton.bench.workloads import (
    agent,
    burst,
    chat,
    code,
    conversation,
    mixed,
    mixed_shift,
    rag_long,
    summarise,
)
from baton.bench.workloads.sessions import Kind
from baton.bench.workloads.workload import Workload
from baton.protocol.errors import ConfigError

WORKLOADS: dict[str, Workload] = {
    module.WORKLOAD.name: module.WORKLOAD
    for module in (
        chat, conversation, code, summarise, agent, rag_long, mixed, mixed_shift, burst,
    )
}
KINDS: dict[str, Kind] = {
    module.KIND.name: module.KIND
    for module in (chat, conversation, code, summarise, agent, rag_long)
}


def kind_of(kind: str | Kind) -> Kind:
    """By its name, or itself."""
    return KINDS[kind] if isinstance(kind, str) else kind


def listed() -> str:
    """One line for each."""
    return "\n".join(f"  {name:<13} {w.about}" for name, w in WORKLOADS.items())


def check_name(name: str) -> None:
    """Raises ConfigError that names those there are."""
    if name not in WORKLOADS:
        raise ConfigError(f"no workload {name!r}; there are: {', '.join(WORKLOADS)}")
