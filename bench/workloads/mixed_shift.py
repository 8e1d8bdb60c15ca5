"""`mixed-shift`: the balance of prompts and output shifts from phase to phase."""

from __future__ import annotations

from baton.bench.workloads import chat, code
from baton.bench.workloads.workload import Phase, Workload

PROMPTS = Phase("prompts", ((code.KIND, 0.85), (chat.KIND, 0.15)))
OUTPUT = Phase("output", ((chat.KIND, 1.0),))
EVEN = Phase("even", ((code.KIND, 0.5), (chat.KIND, 0.5)))

WORKLOAD = Workload(
    "mixed-shift",
    "mostly prompts, then output, then prompts again, then both",
    (PROMPTS, OUTPUT, PROMPTS, EVEN),
)
