"""What runs of one layout found, over all seeds."""

from __future__ import annotations

from collections.abc import Sequence

from baton.bench.planning.estimates import estimate, over_runs, percentiles, share, shortened
from baton.bench.planning.plan import SHARES, Figures
from baton.bench.planning.run import RunFigures


def figures_of(runs: Sequence[RunFigures], rate: float | None = None) -> Figures:
    """`rate`: that was asked for; None: the one that came."""
    came = sum(run.came for run in runs) / len(runs)
    return Figures(
        rate_per_s=shortened(came if rate is None else rate),
        requests=sum(run.requests for run in runs),
        attainment=share(run.attainment for run in runs),
        goodput_per_s=estimate(run.goodput for run in runs),
        served=share(run.served for run in runs),
        ttft_ms=percentiles([run.ttft for run in runs]),
        itl_ms=percentiles([run.itl for run in runs]),
        gap_ms=over_runs(lambda wanted: [
            None if (gap := run.gaps[SHARES.index(wanted)]) is None else 1e3 * gap for run in runs
        ]),
        e2e_ms=percentiles([run.e2e for run in runs]),
        hit_rate=share(run.hit_rate for run in runs),
        handed=share(run.handed for run in runs),
    )
