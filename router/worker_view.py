"""What people and tools see of a worker."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from baton.router.curves_view import CurvesView, curves_view

if TYPE_CHECKING:
    from baton.router.registry import Worker


class WorkerView(msgspec.Struct, frozen=True, kw_only=True):
    """What people and tools see of a worker."""

    id: str
    pid: int
    host: str
    role: str
    state: str
    epoch: int
    device: str
    max_running: int
    num_blocks: int
    blocks: dict[str, int] | None
    """By state; None before the first heartbeat."""
    load: dict[str, float] | None
    outstanding: int
    """Requests of this router that it holds something of."""
    curves: CurvesView | None
    """How long its steps and transfers take, as it has measured."""
    heartbeat_age: float | None
    """Seconds since the last heartbeat."""


def view_of(worker: Worker, now: float) -> WorkerView:
    hello, load = worker.hello, worker.load
    return WorkerView(
        id=hello.identity.node_id,
        pid=hello.pid,
        host=hello.host,
        role=worker.role,
        state="draining" if worker.leaving else worker.state,
        epoch=hello.identity.epoch,
        device=hello.device,
        max_running=hello.max_running,
        num_blocks=hello.num_blocks,
        blocks=None if load is None else _fields(load.blocks),
        load=None
        if load is None
        else {
            "waiting": load.waiting,
            "running": load.running,
            "handoffs": load.handoffs,
            "waiting_tokens": load.waiting_tokens,
            "step_age": load.step_age,
            "steps": load.steps,
            "preemptions": load.preemptions,
        },
        outstanding=worker.outstanding,
        curves=None if worker.curves is None else curves_view(worker.curves),
        heartbeat_age=None if load is None else now - worker.heard,
    )


def _fields(record: msgspec.Struct) -> dict[str, int]:
    return {name: getattr(record, name) for name in record.__struct_fields__}
