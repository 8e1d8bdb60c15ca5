"""The automatic router against the best of all static systems, on the same requests of some seeds.

Which static system is the best is judged over all seeds together: who took the best of each seed
would compare with luck. What is plainly worse after a seed is not run on the next one, and of many
workers the splits are first tried in steps of an eighth, then around the best.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from baton.bench.results import Row
from baton.bench.routing.paired import Ratio, ratio
from baton.bench.routing.systems import System, automatic, split, static_systems
from baton.bench.routing.trial import Trial

WANTED = 0.97
HOPELESS = 0.9
"""Of the best one's goodput so far: what is below is not tried with another seed."""
GRID = 8
"""Parts of the workers by which splits differ at first."""

RunAll = Callable[[Sequence[System], int], list[Trial]]
"""`(systems, seed)`: each with the same requests."""


@dataclass
class Contest:
    """What all systems made of the same requests. Trials of a system seed by seed."""

    ours: list[Trial] = field(default_factory=list)
    static: dict[str, list[Trial]] = field(default_factory=dict)
    """Those given up have fewer trials."""

    @property
    def best(self) -> str:
        """Of the static ones that ran with all seeds; empty without any."""
        full = [name for name, trials in self.static.items() if len(trials) == len(self.ours)]
        return max(full, key=lambda name: goodput(self.static[name]), default="")

    @property
    def ratio(self) -> Ratio:
        best = self.static.get(self.best, self.ours)
        return ratio([t.outcomes for t in self.ours], [t.outcomes for t in best])

    def trials(self) -> Iterator[list[Trial]]:
        """Of all systems, ours first."""
        yield self.ours
        yield from self.static.values()

    def row(self, what: str) -> Row:
        seen = self.ratio
        against = f", against {self.best}" if self.best else ""
        return Row(f"{what}{against}", f">= {WANTED:g}", str(seen), seen.value >= WANTED)


def goodput(trials: Sequence[Trial]) -> float:
    """Requests per second that attained their targets."""
    seconds = sum(trial.seconds for trial in trials)
    return sum(trial.goodput * trial.seconds for trial in trials) / seconds if seconds else 0.0


def hold(workers: int, seeds: Sequence[int], run: RunAll, only: Sequence[str] = ()) -> Contest:
    """`only`: names of the systems to try; all, if there are none."""
    contest = Contest()
    ours = automatic(workers)
    systems = [
        system for system in static_systems(workers, max(1, workers // GRID))
        if not only or system.name in only
    ]
    for number, seed in enumerate(seeds):
        trials = run([ours, *systems], seed)
        contest.ours.append(trials[0])
        _add(contest, trials[1:])
        if number == 0 and not only:
            systems += _refine(contest, workers, seed, run)
        systems = _hopeful(contest, systems)
    return contest


def _add(contest: Contest, trials: Sequence[Trial]) -> None:
    for trial in trials:
        contest.static.setdefault(trial.system, []).append(trial)


def _refine(contest: Contest, workers: int, seed: int, run: RunAll) -> list[System]:
    """Splits between those that were tried, ever nearer to the best one."""
    tried: list[System] = []
    of = {split(n, workers - n).name: n for n in range(1, workers)}
    step = max(1, workers // GRID)
    while (step := step // 2) > 0:
        known = {of[name]: goodput(trials) for name, trials in contest.static.items() if name in of}
        best = max(known, key=lambda n: known[n])
        near = [
            split(n, workers - n)
            for n in (best - step, best + step)
            if 0 < n < workers and n not in known
        ]
        _add(contest, run(near, seed))
        tried += near
    return tried


def _hopeful(contest: Contest, systems: Sequence[System]) -> list[System]:
    so_far = {system.name: goodput(contest.static[system.name]) for system in systems}
    best = max(so_far.values(), default=0.0)
    return [system for system in systems if so_far[system.name] >= HOPELESS * best]
