"""Links that lose what they carry: cut for a while, or bad all the time."""

from __future__ import annotations

import time
from collections import Counter

from baton.bench.faults.chaos import told_in
from baton.bench.faults.ground import Ground
from baton.bench.faults.judge import SILENCE, Verdict
from baton.bench.faults.stalls import DETECTION


def cut(ground: Ground, link: str, seconds: float) -> Verdict:
    """No byte passes on a link ("decode-0>router", or ">decode-0" for all that other workers say
    to decode-0) for so long, with a load running before, meanwhile and when it is mended."""
    verdict = Verdict(f"link {link} cut for {seconds:g} s")
    links = ground.parts.links
    verdict.check(links.connections(link) > 0, "nothing uses this link")
    try:
        with ground.disturbed(verdict, at=ground.moment(0.05, 0.4)) as (load, watcher):
            tokens = ground.at_stake(load, link.strip(">").partition(">")[0])
            began = time.monotonic()
            links.cut(link)
            load.wait()
            # Those that start while it is cut, and go on when it is mended.
            time.sleep(max(0.0, began + seconds - 0.5 - time.monotonic()))
            second = ground.load()
            time.sleep(max(0.0, began + seconds - time.monotonic()))
            links.mend(link)
            second.wait()
    finally:
        links.mend(link)
    verdict.slowest_answer = watcher.slowest_answer(began, began + seconds)
    ground.oracle.judge(ground.parts.url, verdict, second.seen)
    ground.limit_stall(verdict, SILENCE, tokens)
    return ground.settle(verdict)


def bad_links(ground: Ground, name: str, rounds: int = 1) -> Verdict:
    """The load on a cluster whose every control message is subject to chaos."""
    verdict = Verdict(name)
    for _ in range(rounds):
        with ground.disturbed(verdict, at=0.02) as (load, _):
            load.wait()
    ground.limit_stall(verdict, DETECTION, ground.longest)
    ground.settle(verdict)
    frames: Counter[str] = Counter()
    for part in (ground.parts.router, *ground.parts.workers.values()):
        frames.update(told_in(part.log.read_text(errors="replace")))
    verdict.notes["frames"] = dict(frames)
    verdict.check(frames.total() > frames["pass"], "no frame was disturbed")
    return verdict
