"""Where the processes of the fault bench begin: the ordinary `baton` command, after the faults that
this process is to have were installed.

`python -P -m baton.bench.faults.entry TAMPERING router|worker OPTIONS`, with TAMPERING as JSON.
Ends when its standard input does, so that nothing outlives the bench.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from baton.deploy import lifeline


@dataclass(frozen=True, slots=True)
class Tampering:
    """What is wrong with one process; nothing by default."""

    chaos: dict[str, float] | None = None
    """Shares of a `ChaosSpec`."""
    corrupt_every: int = 0
    """Every so many messages with blocks, one has a wrong byte while the file `switch` is there;
    0 is never."""
    switch: str | None = None
    advertise: str | None = None
    """Tell other workers this address of the hand-off channel; the true one is written to
    `address_file`."""
    address_file: str | None = None
    split: bool = False
    """Of a router: every request goes by the workers' roles, whatever that costs. A model as small
    as a test's would hardly ever be worth a hand-off, and hand-offs are what is to be tried."""
    seed: int = 0

    def to_json(self) -> str:
        return json.dumps(asdict(self))


def tamper(what: Tampering) -> None:
    if what.chaos:
        from baton.bench.faults import chaos

        chaos.install(chaos.ChaosSpec(**what.chaos), what.seed)
    if what.corrupt_every:
        from baton.bench.faults import corruption

        assert what.switch is not None
        corruption.install(what.corrupt_every, what.seed, Path(what.switch))
    if what.split:
        from baton.router.registry import Worker

        # Where nobody has said how fast it is, roles decide.
        Worker.learn = lambda self, curves: None  # type: ignore[method-assign]
    if what.advertise is not None:
        assert what.address_file is not None
        _advertise(what.advertise, Path(what.address_file))


def _advertise(advertised: str, told: Path) -> None:
    from baton.kvtransfer.peers import IncomingPeers

    original = IncomingPeers.bind

    async def bind(self: IncomingPeers, address: str) -> str:
        told.write_text(await original(self, address))  # noqa: ASYNC240 (a few bytes, once)
        return advertised

    IncomingPeers.bind = bind  # type: ignore[method-assign]


def main() -> None:
    what: dict[str, Any] = json.loads(sys.argv[1])
    lifeline.watch(sys.stdin.fileno())
    tamper(Tampering(**what))
    sys.argv[1:] = sys.argv[2:]
    from baton.deploy import cli

    cli.main()


if __name__ == "__main__":
    main()
