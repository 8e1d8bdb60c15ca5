"""Workers that lose sight of each other, while both see the router: UCX and the hand-off's control
over a link of two network namespaces that is dead for a while.

    prefill-0's namespace ====== the link ====== decode-0's namespace
              \\                                   /
               +---- a way each to the router ----+        (in the namespace of this process)

No packet passes while the link is dead, in either direction, and nobody is told: what is under way
stays under way, and TCP goes on to try.
"""

from __future__ import annotations

import os
import subprocess
import time
from dataclasses import replace
from typing import Self

from baton.bench.faults.ground import Ground
from baton.bench.faults.judge import SILENCE, Verdict
from baton.bench.faults.parts import Part, Parts, Plan
from baton.bench.wire import namespaces

CLEAN_SECONDS = 60.0
"""After ten seconds without an answer TCP tries again only after as many more."""
DEVICE = "vdata"
_DATA = ("10.200.78.1", "10.200.78.2")
_ROUTER = ("10.200.79.1", "10.200.79.5")
_WORKER = ("10.200.79.2", "10.200.79.6")


def why_not() -> str | None:
    """Why it cannot be done here; None when it can."""
    return namespaces.why_not()


class Network:
    """Two namespaces, from start to close. Raises CalledProcessError."""

    def __init__(self) -> None:
        self.names = (f"bf{os.getpid()}a", f"bf{os.getpid()}b")

    def open(self) -> None:
        for name in self.names:
            _run("ip", "netns", "add", name)
            _run("ip", "-n", name, "link", "set", "lo", "up")
        _run("ip", "link", "add", DEVICE, "netns", self.names[0], "type", "veth",
             "peer", "name", DEVICE, "netns", self.names[1])
        for index, name in enumerate(self.names):
            _run("ip", "-n", name, "addr", "add", f"{_DATA[index]}/24", "dev", DEVICE)
            _run("ip", "-n", name, "link", "set", DEVICE, "up")
            ours = f"bf{os.getpid()}{index}"
            _run("ip", "link", "add", ours, "type", "veth", "peer", "name", "vrouter",
                 "netns", name)
            _run("ip", "addr", "add", f"{_ROUTER[index]}/30", "dev", ours)
            _run("ip", "link", "set", ours, "up")
            _run("ip", "-n", name, "addr", "add", f"{_WORKER[index]}/30", "dev", "vrouter")
            _run("ip", "-n", name, "link", "set", "vrouter", "up")

    def set_dead(self, dead: bool) -> None:
        """Nothing leaves either end of the link, or everything does again."""
        for name in self.names:
            if dead:  # a queue that no packet fits into; netem is not in every kernel
                _run("tc", "-n", name, "qdisc", "replace", "dev", DEVICE, "root", "bfifo",
                     "limit", "1")
            else:
                subprocess.run(["tc", "-n", name, "qdisc", "del", "dev", DEVICE, "root"],
                               capture_output=True, check=False)

    def close(self) -> None:
        """With its namespaces a device goes, and with it its other end. Idempotent."""
        for name in self.names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


class PartedParts(Parts):
    """One prefill and one decode worker, each in a namespace of its own."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(replace(plan, prefill=1, decode=1, mixed=0))
        self.network = Network()

    def __enter__(self) -> Self:
        self.network.open()
        return super().__enter__()

    def close(self) -> None:
        super().close()
        self.network.close()

    def control(self) -> str:
        return f"0.0.0.0:{self.control_port}"

    def _worker(self, name: str, common: list[str], number: int) -> Part:
        arguments = ["worker", *common, "--role", name.partition("-")[0], "--id", name,
                     "--join", f"{_ROUTER[number]}:{self.control_port}", "--host", _DATA[number],
                     *self.plan.worker_options]
        namespace = f"bf{os.getpid()}{'ab'[number]}"
        # With an IPC namespace of its own it is another host: shared memory is no way to it.
        return Part(name, arguments, self.plan.tampering, self.folder / f"{name}.log",
                    prefix=("ip", "netns", "exec", namespace, "unshare", "--ipc"),
                    environment={"UCX_NET_DEVICES": DEVICE})


def partition(ground: Ground, seconds: float) -> Verdict:
    """The link is dead for so long in the midst of transfers, with requests that begin before,
    meanwhile and afterwards."""
    verdict = Verdict(f"no way between two workers for {seconds:g} s")
    parts = ground.parts
    assert isinstance(parts, PartedParts)
    try:
        with ground.disturbed(verdict, at=ground.moment(0.02, 0.1)) as (load, _):
            tokens = ground.at_stake(load, "decode-0")
            began = time.monotonic()
            parts.network.set_dead(True)
            second = ground.load()
            time.sleep(max(0.0, began + seconds - time.monotonic()))
            parts.network.set_dead(False)
            second.wait()
    finally:
        parts.network.set_dead(False)
    ground.oracle.judge(parts.url, verdict, second.seen)
    # The second load starts upon the first, and waits for its turn.
    ground.limit_stall(verdict, SILENCE, tokens + 2 * ground.prompts)
    verdict.notes["clean_after_seconds"] = ground.attempt(
        lambda: not parts.unclean(), CLEAN_SECONDS
    )
    third = ground.load().wait()
    ground.oracle.judge(parts.url, verdict, third)
    sender = parts.workers["prefill-0"].log.read_text(errors="replace")
    verdict.check("hand-off channel to decode-0 lost" in sender, "the workers saw each other")
    return ground.settle(verdict)


def _run(*words: str) -> None:
    subprocess.run(words, capture_output=True, check=True, text=True)
