"""Machines by name, at their former place."""

from baton.bench.planning.hardware.kinds import load_machine
from baton.bench.planning.hardware.made import made

__all__ = ["load_machine", "made"]
