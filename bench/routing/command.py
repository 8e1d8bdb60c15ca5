"""`baton bench routing PART`: what routing costs and how well it decides."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

PARTS = {
    "suite": ("baton.bench.routing.suite", "goodput against static splits and colocated workers"),
    "trace": ("baton.bench.routing.trace", "the same for the requests of a trace or a journal"),
    "shift": ("baton.bench.routing.shift", "a load whose balance shifts, against the best splits"),
    "overload": ("baton.bench.routing.overload", "goodput beyond capacity, and after a burst"),
    "prefix": ("baton.bench.routing.prefix", "cache hits against one infinite cache"),
    "lanes": ("baton.bench.routing.lanes", "people's requests beside a flood of batch work"),
    "real": ("baton.bench.routing.real", "paced processes beside a simulation of the same"),
    "decision": ("baton.bench.routing.decision", "what one decision costs, over 1 to 64 workers"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """0, or 2 when there is no such part."""
    name, *rest = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name in PARTS:
        return importlib.import_module(PARTS[name][0]).main(rest) or 0
    print("Usage: baton bench routing PART [OPTIONS]; `... PART --help` says more.\n")
    for part, (_, what) in PARTS.items():
        print(f"  {part:<10} {what}")
    return 0 if name in ("-h", "--help") else 2


if __name__ == "__main__":
    raise SystemExit(main())
