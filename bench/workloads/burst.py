"""`burst`: chat, but questions come in bursts."""

from __future__ import annotations

from baton.bench.workloads import chat
from baton.bench.workloads.workload import Phase, Workload

WORKLOAD = Workload(
    "burst",
    "chat in bursts: intervals vary by four times their mean",
    (Phase("", ((chat.KIND, 1.0),), variation=4.0),),
)
