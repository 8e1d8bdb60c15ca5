"""`mixed`: everything at once."""

from __future__ import annotations

from baton.bench.workloads import agent, chat, code, conversation, summarise
from baton.bench.workloads.workload import Phase, Workload

WORKLOAD = Workload(
    "mixed",
    "chat, conversations, code, agents and a few documents, at once",
    (Phase("", (
        (chat.KIND, 0.3), (conversation.KIND, 0.25), (code.KIND, 0.2), (summarise.KIND, 0.05),
        (agent.KIND, 0.2),
    )),),
)
