"""Fits curves of durations online, robustly, from real steps and transfers. Pure.

A duration is a sum of costs that are never negative, and what is measured of it is noisy: now and
then a step takes a hundred times as long for reasons of its own; a machine becomes slower for a
while, as a whole; and for an hour there may be only one kind of step. So:

* Least squares on *relative* residuals: a step of 10 ms counts as much as one of a second.
* A step far off counts less the further it is, and beyond some distance not at all.
* When nearly all of the last steps are off in one direction, the machine has changed: the whole
  curve is scaled at once, the parts that were not seen just now included.
* Old steps are forgotten only in the direction of new ones, so that an hour of decode steps does
  not wear away what is known of prompts.
* An *anchor* says how the coefficients lie to each other: what was never seen is shrunk towards
  it, not its level, which any step tells.

Inside, coefficients are multiples of the anchor's, so all numbers are around 1. Let q be the costs
of a step by the anchor divided by its predicted duration, and y the measured duration by the
predicted one; then information A = sum of w q q' and b = sum of w y q, and the multiples solve A m
= b under m >= 0. Some 40 us per step for six coefficients.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from statistics import median

Vector = list[float]
Matrix = list[list[float]]
Sample = tuple[Sequence[float], float]
"""Features of a step, and its seconds."""

MEMORY = 150
"""Steps of one kind after which an older one counts 1/e."""
WINDOW = 12
AGREE = 9
"""So many of the last WINDOW steps off in one direction are a change of the machine's speed."""
CHANGE = (0.25, 0.5)
"""Least and most logarithm of a ratio that counts as off; in between, twice the spread."""
FULL_WEIGHT = 2.0
NO_WEIGHT = 8.0
"""In spreads: up to the first a step counts in full, beyond the second not at all."""
SPREAD_RANGE = (0.01, 1.0)
JUDGED_AT = (1, 2, 4, 8, 16, 32)
"""Steps seen, of a guessed anchor, when all of them are fitted anew: any of the first ones may be
an outlier, and only the later ones tell."""
_LEVEL_FORGOTTEN = 0.9
_LEVEL_DEVIATION = 3.0
"""Of the anchor's level, relative to it: next to nothing is claimed."""
_ONE_SIGMA = 0.683
_DOUBT = 0.3
"""Few samples fit any curve well: the spread is at least this over the root of their number."""
_SIGMA_OF_MEDIAN = 1.4826
"""Of a normal distribution: its standard deviation over the median of absolute deviations."""


class CurveFit:
    """`anchor`: one positive coefficient per feature, a measured curve's, or with `guessed` only
    of some proportions. `trust`: relative standard deviation of these proportions."""

    def __init__(
        self, anchor: Sequence[float], *, trust: float, spread: float = 0.3, guessed: bool = False
    ) -> None:
        if not all(value > 0 for value in anchor):
            raise ValueError(f"an anchor's coefficients must be above 0, got {anchor}")
        size = len(anchor)
        self._unit = list(anchor)
        self._trust = trust
        self._information: Matrix = [[0.0] * size for _ in anchor]
        self._moment: Vector = [0.0] * size
        self._multiples: Vector = [1.0] * size
        self._recent: deque[tuple[float, Sample]] = deque(maxlen=WINDOW)
        self.spread = spread
        """Standard deviation of log(actual / predicted), outliers aside."""
        self.count = 0
        """Steps observed."""
        self._first: list[Sample] | None = [] if guessed else None

    @property
    def coefficients(self) -> tuple[float, ...]:
        return tuple(m * unit for m, unit in zip(self._multiples, self._unit, strict=True))

    def predict(self, features: Sequence[float]) -> float:
        """Seconds."""
        return sum(
            m * unit * feature
            for m, unit, feature in zip(self._multiples, self._unit, features, strict=True)
        )

    def observe(self, features: Sequence[float], seconds: float) -> None:
        """Take in one step. Durations that cannot be are ignored."""
        if not 0 < seconds < math.inf:
            return
        self.count += 1
        if self._first is not None:
            self._first.append((features, seconds))
            if self.count in JUDGED_AT:
                self.refit(self._first, passes=6)
                if self.count == JUDGED_AT[-1]:
                    self._first = None
                return
        self._learn(features, seconds)

    def covariance(self) -> tuple[float, ...]:
        """Of the coefficients: upper triangle by rows."""
        inverse = _inverse(self._precision())
        scale = self.spread**2
        size = len(self._unit)
        return tuple(
            scale * inverse[i][j] * self._unit[i] * self._unit[j]
            for i in range(size)
            for j in range(i, size)
        )

    def refit(self, samples: Sequence[Sample], *, passes: int = 12) -> None:
        """Take in a whole profile: weights are judged by all of it at once and in no order. What
        was seen before is forgotten."""
        size = len(self._unit)
        for _ in range(passes):
            ratios = [self._ratio(features, seconds) for features, seconds in samples]
            self._rescale(median(ratios))
            offs = [abs(math.log(self._ratio(*sample))) for sample in samples]
            least = _DOUBT / math.sqrt(len(samples))
            self.spread = _within(max(least, _SIGMA_OF_MEDIAN * median(offs)), *SPREAD_RANGE)
            self._information = [[0.0] * size for _ in range(size)]
            self._moment = [0.0] * size
            for features, seconds in samples:
                predicted = self.predict(features)
                row = [
                    unit * feature / predicted
                    for unit, feature in zip(self._unit, features, strict=True)
                ]
                ratio = seconds / predicted
                self._add(row, ratio, self._weight(math.log(ratio)))
            self._multiples = self._solve()
        self.count = len(samples)
        self._recent.clear()

    # -- one step ------------------------------------------------------------------------------

    def _learn(self, features: Sequence[float], seconds: float) -> None:
        costs = [unit * feature for unit, feature in zip(self._unit, features, strict=True)]
        predicted = sum(m * cost for m, cost in zip(self._multiples, costs, strict=True))
        if not predicted > 0:
            return
        off = math.log(seconds / predicted)
        if self._changed(off, features, seconds):
            return
        weight = self._weight(off)
        self._learn_spread(off)
        if weight > 0:
            row = [cost / predicted for cost in costs]
            self._forget(row, 1 / MEMORY)
            self._add(row, seconds / predicted, weight)
            self._multiples = self._solve()

    def _ratio(self, features: Sequence[float], seconds: float) -> float:
        return seconds / self.predict(features)

    def _changed(self, off: float, features: Sequence[float], seconds: float) -> bool:
        """Whether the machine's speed has; then the curve follows at once."""
        recent = self._recent
        recent.append((off, (features, seconds)))
        if len(recent) < WINDOW:
            return False
        limit = _within(2 * self.spread, *CHANGE)
        above = sum(value > limit for value, _ in recent)
        below = sum(value < -limit for value, _ in recent)
        if max(above, below) < AGREE:
            return False
        # By the curve of now: these steps have moved it already.
        self._rescale(median(self._ratio(*sample) for _, sample in recent))
        recent.clear()
        # A dozen steps do not tell the new level well: let the next ones correct it soon.
        self._forget([1.0] * len(self._unit), _LEVEL_FORGOTTEN)
        return True

    def _rescale(self, factor: float) -> None:
        # Rows are relative to predictions, so no sum changes.
        self._unit = [unit * factor for unit in self._unit]

    def _weight(self, off: float) -> float:
        """1 near the prediction; then so that a step's pull stays bounded; at last 0."""
        if abs(off) > max(NO_WEIGHT * self.spread, CHANGE[1]):
            return 0.0
        pull = abs(math.expm1(off))
        full = FULL_WEIGHT * self.spread
        return 1.0 if pull <= full else full / pull

    def _learn_spread(self, off: float) -> None:
        """Towards the deviation that 68 % of steps stay within; it cannot see by how far the
        others exceed it. Fast at first."""
        rate = max(0.02, 1 / (2 + self.count) ** 0.7)
        inside = abs(off) <= self.spread
        step = -(1 - _ONE_SIGMA) if inside else _ONE_SIGMA
        self.spread = _within(self.spread * math.exp(2 * rate * step), *SPREAD_RANGE)

    def _forget(self, row: Vector, share: float) -> None:
        """A share of what is known in the direction of `row`, which takes nothing from any other:
        the estimate stays, its uncertainty grows along `row` alone."""
        information = self._information
        image = [sum(map(_times, line, row)) for line in information]
        known = sum(map(_times, image, row))
        if known <= 0:
            return
        moment = sum(map(_times, row, self._moment))
        for i, value in enumerate(image):
            scaled = share * value / known
            if scaled:
                line = information[i]
                information[i] = [a - scaled * b for a, b in zip(line, image, strict=True)]
                self._moment[i] -= scaled * moment

    def _add(self, row: Vector, ratio: float, weight: float) -> None:
        for i, value in enumerate(row):
            if value:
                scaled = weight * value
                line = self._information[i]
                self._information[i] = [a + scaled * b for a, b in zip(line, row, strict=True)]
                self._moment[i] += scaled * ratio

    # -- solving -------------------------------------------------------------------------------

    def _precision(self) -> Matrix:
        """Information of the steps and of the anchor: the latter's on how the multiples differ
        from their mean, and very little on the mean itself."""
        size = len(self._unit)
        shape = (self.spread / self._trust) ** 2
        level = (self.spread / _LEVEL_DEVIATION) ** 2
        between = (level - shape) / size
        return [
            [value + between + (shape if i == j else 0.0) for j, value in enumerate(line)]
            for i, line in enumerate(self._information)
        ]

    def _solve(self) -> Vector:
        level = (self.spread / _LEVEL_DEVIATION) ** 2
        return _solve_nonnegative(self._precision(), [value + level for value in self._moment])


def _solve_nonnegative(matrix: Matrix, right: Vector) -> Vector:
    """Minimises x' M x / 2 - b' x over x >= 0, for a positive definite M: an active set, whose
    members leave when the gradient says so."""
    size = len(right)
    free = list(range(size))
    for _ in range(3 * size):
        part = _solve_symmetric([[matrix[i][j] for j in free] for i in free],
                                [right[i] for i in free])
        lowest = min(range(len(free)), key=part.__getitem__, default=None)
        if lowest is not None and part[lowest] < 0:
            del free[lowest]
            continue
        found = [0.0] * size
        for i, value in zip(free, part, strict=True):
            found[i] = value
        if len(free) == size:
            return found
        held = [i for i in range(size) if i not in free]
        gains = {i: right[i] - sum(map(_times, matrix[i], found)) for i in held}
        best = max(held, key=gains.__getitem__)
        if gains[best] <= 1e-9 * (1 + abs(right[best])):
            return found
        free = sorted([*free, best])
    return found if free else [0.0] * size


def _solve_symmetric(matrix: Matrix, right: Vector) -> Vector:
    """By elimination; `matrix` is positive definite, so no pivoting is needed."""
    size = len(right)
    rows = [[*line, value] for line, value in zip(matrix, right, strict=True)]
    for i in range(size):
        pivot = rows[i]
        inverse = 1 / pivot[i]
        for j in range(i + 1, size):
            row = rows[j]
            factor = row[i] * inverse
            if factor:
                rows[j] = [a - factor * b for a, b in zip(row, pivot, strict=True)]
    found = [0.0] * size
    for i in range(size - 1, -1, -1):
        row = rows[i]
        total = row[size]
        for j in range(i + 1, size):
            total -= row[j] * found[j]
        found[i] = total / row[i]
    return found


def _inverse(matrix: Matrix) -> Matrix:
    size = len(matrix)
    return [
        _solve_symmetric(matrix, [float(i == j) for i in range(size)]) for j in range(size)
    ]


def _times(left: float, right: float) -> float:
    return left * right


def _within(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)
