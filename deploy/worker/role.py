"""A worker's role, and whose word about it counts.

    controllers   the highest term seen; within a term, the first that used it
    people        the term in force; what they choose stays, until they say "auto"

Two routers that both take themselves for the leader so never drive a worker to and fro: the later
one has the higher term, and the other's commands come to nothing.
"""

from __future__ import annotations

import logging

from baton.engine.limits import ROLES
from baton.protocol.ids import Identity
from baton.protocol.records import SetRole

log = logging.getLogger(__name__)

AUTO = "auto"


class RoleKeeper:
    def __init__(self, role: str) -> None:
        self.role = role
        self.term = 0
        self.controller = ""
        self.pinned = False

    def take(self, record: SetRole, router: Identity) -> bool:
        """Whether the command counts; `role` is the new one then. Refused ones are logged."""
        why = self._why_not(record)
        if why is not None:
            log.warning("router %s may not change the role: %s", router.node_id, why)
            return False
        if record.term > self.term:
            self.term, self.controller = record.term, ""
        self.controller = record.controller or self.controller
        if not record.controller:
            self.pinned = record.role != AUTO
        if record.role not in (AUTO, self.role):
            by = record.controller or "a person"
            log.info("role %s -> %s, by %s in term %d", self.role, record.role, by, self.term)
            self.role = record.role
        return True

    def _why_not(self, record: SetRole) -> str | None:
        if record.role not in ROLES and (record.controller or record.role != AUTO):
            return f"{record.role!r} is no role"
        if record.term < self.term:
            return f"term {record.term} is over, this is {self.term}"
        if not record.controller:
            return None
        if self.pinned:
            return "a person chose it"
        if record.term == self.term and self.controller not in ("", record.controller):
            return f"term {record.term} is that of {self.controller}"
        return None
