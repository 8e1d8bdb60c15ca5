"""What a worker learns of its own steps: seconds over what a step holds. Pure.

Starts from a profile's curve where there is one. Without, it starts from proportions that are
roughly those of any transformer, takes the level from the first steps, and unlearns the
proportions as steps differ.
"""

from __future__ import annotations

from collections.abc import Iterable

from baton.protocol.curve_fit import CurveFit
from baton.protocol.curves import StepCurve, StepShape

_PROPORTIONS = (1.0, 0.1, 0.02, 1e-5, 0.04, 1e-4)
"""Of a StepCurve's coefficients to its base, where nothing was measured."""
_TRUST_PROFILE = 0.3
_TRUST_GUESS = 1.0
_FLOOR = 1e-3
"""Part of the guess that a coefficient keeps which a profile found to be 0: it may grow yet."""


class StepFit:
    """`profile`: a curve to start from."""

    def __init__(self, profile: StepCurve | None = None) -> None:
        self._profiled = profile is not None
        if profile is None:
            self._fit = CurveFit(_PROPORTIONS, trust=_TRUST_GUESS, guessed=True)
        else:
            self._fit = _anchored(profile)

    @property
    def steps(self) -> int:
        """Observed by this fit, the profile's own not counted."""
        return self._fit.count

    @property
    def known(self) -> bool:
        """Whether `curve` rests on any measurement at all."""
        return self._profiled or self._fit.count > 0

    def observe(self, shape: StepShape, seconds: float) -> None:
        """One step of the engine took so long: some 50 us. Durations that cannot be are ignored."""
        self._fit.observe(shape.features, seconds)

    def curve(self) -> StepCurve:
        """As of now. Before `known` it says nothing."""
        return _curve(self._fit, self._fit.count)


def fit_steps(samples: Iterable[tuple[StepShape, float]]) -> StepCurve:
    """The curve of a whole profile: (shape, seconds) of at least one step, in any order."""
    rows = [(shape.features, seconds) for shape, seconds in samples]
    if not rows:
        raise ValueError("a profile needs at least one step")
    fit = CurveFit(_PROPORTIONS, trust=_TRUST_GUESS)
    fit.refit(rows)
    return _curve(fit, len(rows))


def _anchored(profile: StepCurve) -> CurveFit:
    coefficients = profile.coefficients
    level = max(
        found / guess for found, guess in zip(coefficients, _PROPORTIONS, strict=True)
    )
    anchor = [
        max(found, _FLOOR * level * guess)
        for found, guess in zip(coefficients, _PROPORTIONS, strict=True)
    ]
    return CurveFit(anchor, trust=_TRUST_PROFILE, spread=max(profile.spread, 0.1))


def _curve(fit: CurveFit, steps: int) -> StepCurve:
    base, chunk, token, pair, decode, context = fit.coefficients
    return StepCurve(
        base=base,
        chunk=chunk,
        token=token,
        pair=pair,
        decode=decode,
        context=context,
        spread=fit.spread,
        steps=steps,
        covariance=fit.covariance(),
    )
