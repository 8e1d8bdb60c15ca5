"""Processes that die, stop or start again."""

from __future__ import annotations

import signal
import time

from baton.bench.faults.ground import TRIES, Ground
from baton.bench.faults.judge import SILENCE, Verdict
from baton.bench.faults.load import Load, run
from baton.bench.faults.redispatch import Redispatches
from baton.bench.faults.stalls import DETECTION
from baton.bench.faults.watcher import Watcher

ANSWER = 1.0
HEARTBEAT = 2.0
"""Seconds: a router that answers later, or a heartbeat that is older, means a stall."""
LATE = b"stood still for"
"""What a worker says that ends because it was stopped for too long."""
SERVES = 2.0
"""Seconds from a new life's readiness to its first work."""


def kill(ground: Ground, role: str, rounds: int = 1) -> Verdict:
    """kill -9 of one of two workers of a role at random moments."""
    verdict = Verdict(f"kill -9 a {role} worker")
    for _ in range(rounds):
        name = ground.victim(role)
        before = Redispatches(ground.parts)
        with ground.disturbed(verdict) as (load, watcher):
            epoch = ground.parts.views()[name]["epoch"]
            tokens = ground.at_stake(load, name)
            began = time.monotonic()
            ground.parts.workers[name].kill()
        _detected(verdict, watcher, name, epoch, began)
        Redispatches(ground.parts).judge(verdict, before)
        ground.limit_stall(verdict, DETECTION, tokens)
    return ground.settle(verdict)


def _detected(
    verdict: Verdict, watcher: Watcher, name: str, epoch: int, began: float
) -> None:
    lost = watcher.lost_at(name, epoch, began)
    if lost is None:
        verdict.check(False, f"the death of {name} was not noticed")
        return
    verdict.detection = max(verdict.detection or 0.0, lost - began)
    verdict.check_time("detection", lost - began, DETECTION)


def kill_the_only(ground: Ground, role: str = "decode") -> Verdict:
    """kill -9 of the only worker of a role, which is started again at once."""
    verdict = Verdict(f"kill -9 the only {role} worker")
    name = f"{role}-0"
    with ground.disturbed(verdict, may_fail=True) as (load, _):
        ground.parts.workers[name].kill()
        ground.parts.workers[name].start()
        load.wait()
    _serves_again(ground, verdict, name)
    return ground.settle(verdict)


def restart(ground: Ground, role: str) -> Verdict:
    """kill -9 and an immediate start on the same address, under load."""
    verdict = Verdict(f"restart a {role} worker on its address")
    name = ground.victim(role)
    with ground.disturbed(verdict) as (load, _):
        tokens = ground.at_stake(load, name)
        ground.parts.workers[name].kill()
        ground.parts.workers[name].start()
    ground.limit_stall(verdict, DETECTION, tokens)
    _serves_again(ground, verdict, name)
    return ground.settle(verdict)


def _serves_again(ground: Ground, verdict: Verdict, name: str) -> None:
    """From the moment that the router calls it ready, how long until it works."""
    parts = ground.parts
    parts.wait(lambda: parts.is_ready(name), f"{name} is back", 60.0)
    before = parts.views()[name]["load"]["steps"]
    # Several at once: a single one may always go to the same other worker.
    few = ground.asks[: 4 * len(parts.workers)]

    def works() -> bool:
        """Known from heartbeats, so up to half a second late."""
        return bool(parts.views()[name]["load"]["steps"] > before)

    began = time.monotonic()
    took = None
    for _ in range(TRIES):  # those that come one by one may all find room elsewhere
        load = Load(parts.url, few, ground.salt()).start()
        while took is None and load.finished < len(few):
            if works():
                took = time.monotonic() - began
            time.sleep(0.01)
        ground.oracle.judge(parts.url, verdict, load.wait())
        if took is not None:
            break
    if took is None:
        took = ground.attempt(works, HEARTBEAT)
    verdict.check(took is not None, f"{name} does nothing")
    if took is None:
        return
    # A worker that decodes waits for prompts to be read elsewhere: what that takes is not its own.
    usual = max(seen.ttft for seen in run(parts.url, few, ground.salt()))
    verdict.notes["serves_after_seconds"] = round(took, 3)
    verdict.notes["prompts_take_seconds"] = round(usual, 3)
    verdict.check_time(f"from {name} ready to its first step", took, SERVES + usual)


def restart_router(ground: Ground) -> Verdict:
    """kill -9 of the router and a start on the same ports: its streams break, its workers come
    back with nothing held."""
    verdict = Verdict("restart the router on its address")
    with Watcher(ground.parts):
        load = ground.under_way(ground.moment())
        verdict.in_flight = load.in_flight
        ground.parts.router.kill()
        ground.parts.router.start()
        load.wait()
    ground.parts.wait(lambda: _answers(ground), "the router answers", 60.0)
    began = time.monotonic()
    ground.repair()
    took = time.monotonic() - began
    verdict.notes["workers_back_after_seconds"] = round(took, 3)
    verdict.check_time("until its workers were back", took, SERVES + 3.0)
    ground.settle(verdict)
    seen = ground.load().wait()
    ground.oracle.judge(ground.parts.url, verdict, seen)
    return ground.settle(verdict)


def _answers(ground: Ground) -> bool:
    try:
        ground.parts.fetch("/health")
    except OSError:
        return False
    return True


def pause(ground: Ground, role: str, seconds: float) -> Verdict:
    """SIGSTOP, and SIGCONT after `seconds`, both under load."""
    verdict = Verdict(f"SIGSTOP a {role} worker for {seconds:g} s")
    name = ground.victim(role)
    part = ground.parts.workers[name]
    epoch = ground.parts.views()[name]["epoch"]
    said = part.log.stat().st_size
    given_up = seconds > SILENCE
    try:
        with ground.disturbed(verdict, at=ground.moment(0.05, 0.4)) as (load, watcher):
            tokens = ground.at_stake(load, name)
            began = time.monotonic()
            part.signal(signal.SIGSTOP)
            time.sleep(min(seconds, SILENCE))
            if not given_up:
                part.signal(signal.SIGCONT)
            load.wait()
            if given_up:
                # It comes back while others work with what was once its own.
                time.sleep(max(0.0, began + seconds - time.monotonic()))
                second = ground.load()
                ground.reach(second, 0.1)
                part.signal(signal.SIGCONT)
                second.wait()
    finally:
        part.signal(signal.SIGCONT)
    until = began + min(seconds, SILENCE)
    verdict.slowest_answer = watcher.slowest_answer(began, until)
    heartbeat = watcher.oldest_heartbeat(name, began, until)
    verdict.notes["oldest_heartbeat_of_others"] = round(heartbeat, 3)
    verdict.check_time("slowest answer of the router", verdict.slowest_answer, ANSWER)
    verdict.check_time("oldest heartbeat of another worker", heartbeat, HEARTBEAT)
    if given_up:
        lost = watcher.lost_at(name, epoch, began)
        verdict.check(lost is not None, "the router never gave the stopped worker up")
        if lost is not None:
            verdict.detection = lost - began
            verdict.check_time("until it was given up", lost - began, SILENCE)
        ground.oracle.judge(ground.parts.url, verdict, second.seen)
    ground.limit_stall(verdict, SILENCE if given_up else seconds + DETECTION, tokens)

    def is_another() -> bool:
        """Who comes back late ends by itself, and `repair` starts another."""
        ground.repair()
        return bool(ground.parts.views()[name]["epoch"] != epoch)

    same = ground.attempt(is_another, 10.0 if given_up else 0.1) is None
    ground.settle(verdict)
    verdict.notes["came_back_as"] = "the same epoch" if same else "a new epoch"
    # The machine may have held it up for longer than it was told to stand still.
    late = LATE in part.log.read_bytes()[said:]
    as_promised = not same if given_up else same or late
    verdict.check(as_promised, f"it is {verdict.notes['came_back_as']}")
    return verdict
