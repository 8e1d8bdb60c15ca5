"""`baton bench routing PART`: what routing costs and how well it decides."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

PARTS = {
    "decision": ("baton.bench.routing.decision", "what one decision costs, over 1 to 64 workers"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """0, or 2 when there is no such part."""
    name, *rest = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name in PARTS:
        importlib.import_module(PARTS[name][0]).main(rest)
        return 0
    print("Usage: baton bench routing PART [OPTIONS]; `... PART --help` says more.\n")
    for part, (_, what) in PARTS.items():
        print(f"  {part:<10} {what}")
    return 0 if name in ("-h", "--help") else 2


if __name__ == "__main__":
    raise SystemExit(main())
