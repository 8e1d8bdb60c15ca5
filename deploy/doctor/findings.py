"""What a check says: one fact about the machine, and what follows from it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Level(Enum):
    OK = "ok"
    LACK = "lack"
    """It works without, at a cost that the finding names."""
    MISSING = "missing"
    """Baton cannot serve without it."""


@dataclass(frozen=True, slots=True)
class Finding:
    area: str
    """Group of the table, such as "CPU"."""
    what: str
    value: str
    level: Level = Level.OK
    note: str = ""
    """What a lack costs and how to mend it, or what the value is good for."""
