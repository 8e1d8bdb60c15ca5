"""`baton profile`: times steps of all kinds on this machine, and fits the curve of their durations.

The file is what workers start from, and what planner and simulator read. Every step runs three
times: the first pays for what is set up at first use, the second counts, and by how much the third
differs from it is what no curve can do better than. The error is that of a curve fitted to three
quarters of the steps, on the others.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from baton.bench.durations import duration
from baton.bench.machine import describe
from baton.bench.quantiles import quantile
from baton.deploy.settings import ModelSettings, WorkerSettings
from baton.deploy.status import StatusWriter
from baton.deploy.worker.build import LoadedModel, load_model
from baton.deploy.worker.profiling import device_name, profile_path, step_timer, write_profile
from baton.deploy.worker.sizing import pool_blocks
from baton.engine.kv_memory import KVMemory
from baton.engine.model.fingerprint import fingerprint
from baton.engine.runner import ModelRunner
from baton.engine.step_fit import StepFit, fit_steps
from baton.engine.step_profile import Bounds, Samples, StepTimer, random_case
from baton.protocol.curves import StepShape
from baton.protocol.errors import ConfigError
from baton.protocol.profile import HeldOut, Pool, Profile
from baton.protocol.units import format_bytes

_POOL_BYTES = {"cpu": 1 << 30, "cuda": 8 << 30}
_BATCH_TOKENS = {"cpu": 512, "cuda": 8192}
_LEAST_STEPS = 16
_LEARNED_FROM = 50


def measure(
    timer: StepTimer,
    bounds: Bounds,
    seconds: float,
    *,
    seed: int = 0,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[Samples, list[float]]:
    """Random steps for so long, at least _LEAST_STEPS of them. Returns what each took at its
    second run, and at its third."""
    rng = random.Random(seed)
    started = clock()
    samples: Samples = []
    again = []
    while clock() - started < seconds or len(samples) < _LEAST_STEPS:
        case = random_case(rng, bounds)
        timer.run(case)
        samples.append((case.shape, timer.run(case)))
        again.append(timer.run(case))
    return samples, again


def held_out(samples: Samples, again: Sequence[float]) -> HeldOut:
    """Errors are |predicted / actual - 1|."""
    curve = fit_steps([sample for place, sample in enumerate(samples) if place % 4])
    errors = [abs(curve.seconds(shape) / seconds - 1) for shape, seconds in samples[::4]]
    repeats = [
        abs(second / first - 1) for (_, first), second in zip(samples, again, strict=True)
    ]
    ahead = _ahead(samples)
    return HeldOut(
        steps=len(errors),
        median=statistics.median(errors),
        p90=_p90(errors),
        again_median=statistics.median(repeats),
        again_p90=_p90(repeats),
        ahead_median=statistics.median(ahead) if ahead else None,
        ahead_p90=_p90(ahead) if ahead else None,
    )


def _ahead(samples: Samples) -> list[float]:
    """Errors of a fit that begins with nothing, one step ahead of it each time."""
    fit = StepFit()
    errors = []
    for place, (shape, seconds) in enumerate(samples):
        if place >= _LEARNED_FROM:
            errors.append(abs(fit.curve().seconds(shape) / seconds - 1))
        fit.observe(shape, seconds)
    return errors


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code. Raises ConfigError."""
    options = _options(arguments)
    settings = WorkerSettings(
        worker_id="profile",
        role="mixed",
        join=("tcp://127.0.0.1:1",),  # it joins nobody
        device=options.device,
        threads=options.threads,
        max_running=options.max_running,
        model=ModelSettings(
            model=options.model, dtype=options.dtype, block_size=options.block_size
        ),
    )
    console = Console(stderr=True)
    loaded = load_model(settings, StatusWriter())
    threads = torch.get_num_threads()
    console.print(f"timing steps of {loaded.source.name} ({loaded.dtype}) for "
                  f"{options.seconds:g} s on {options.device}, {threads} threads")
    profile = _profile(settings, loaded, options)
    path = profile_path(profile.key) if options.out is None else Path(options.out)
    try:
        write_profile(profile, path)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from error
    _show(profile, Console())
    Console(soft_wrap=True).print(f"written to {path}")
    return 0


def _profile(
    settings: WorkerSettings, loaded: LoadedModel, options: argparse.Namespace
) -> Profile:
    model, device = loaded.model, loaded.device
    layout = model.kv_layout(settings.model.block_size)
    context = min(options.max_context, loaded.config.max_position)
    wanted = max(
        layout.blocks_for(context),
        min(_POOL_BYTES[device.type] // layout.block_bytes,
            settings.max_running * layout.blocks_for(context)),
    )
    memory = KVMemory(layout, wanted, device)
    runner = ModelRunner(model, memory)
    runner.warm_up()
    batch_tokens = min(options.max_batch_tokens or _BATCH_TOKENS[device.type], context)
    bounds = Bounds(batch_tokens, settings.max_running, context)
    blocks, max_model_len = pool_blocks(
        settings.model, layout, device, settings.memory_share, loaded.config.max_position
    )
    samples, again = measure(
        step_timer(runner, memory, wanted), bounds, options.seconds, seed=options.seed
    )
    return Profile(
        model=loaded.source.name,
        fingerprint=fingerprint(loaded.source, loaded.config, loaded.dtype),
        dtype=loaded.dtype,
        device=device.type,
        device_name=device_name(device),
        threads=torch.get_num_threads(),
        block_size=layout.block_size,
        curve=fit_steps(samples),
        samples=tuple(samples),
        error=held_out(samples, again),
        machine={**describe(), "kv_pool": format_bytes(wanted * layout.block_bytes)},
        pool=Pool(
            num_layers=layout.num_layers,
            num_kv_heads=layout.num_kv_heads,
            head_dim=layout.head_dim,
            dtype=layout.dtype,
            blocks=blocks,
            max_model_len=max_model_len,
            max_running=settings.max_running,
            max_batch_tokens=batch_tokens,
        ),
    )


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="baton profile",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", nargs="?", help="as for `baton up`; default: the embedded one")
    parser.add_argument("--device", default=WorkerSettings.device, help="cpu or cuda:N")
    parser.add_argument("--threads", type=int, help="CPU threads; default: torch's choice")
    parser.add_argument("--dtype", default=ModelSettings.dtype)
    parser.add_argument("--block-size", type=int, default=ModelSettings.block_size)
    parser.add_argument("--max-running", type=int, default=WorkerSettings.max_running,
                        help="largest batch of decodes")
    parser.add_argument("--max-batch-tokens", type=int,
                        help="tokens of one step; default: 512 on a CPU, 8192 on a GPU")
    parser.add_argument("--max-context", type=int, default=2048, help="tokens of one sequence")
    parser.add_argument("--seconds", type=duration, default=30.0, metavar="DURATION",
                        help="how long to measure; default: 30s")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of steps")
    parser.add_argument("--out", metavar="FILE",
                        help="default: where workers of this machine look for it")
    options = parser.parse_args(None if arguments is None else list(arguments))
    for name in ("max_running", "max_batch_tokens", "max_context"):
        value = getattr(options, name)
        if value is not None and value < 2:
            parser.error(f"--{name.replace('_', '-')} must be at least 2, got {value}")
    return options


def _p90(values: Sequence[float]) -> float:
    return quantile(values, 0.9) or 0.0


# -- showing ---------------------------------------------------------------------------------


def _show(profile: Profile, console: Console) -> None:
    curve = profile.curve
    table = Table(title=f"{profile.model}, {profile.dtype}, on {profile.device_name}, "
                        f"{profile.threads} threads")
    for column in ("step", "ms", "9 of 10 within"):
        table.add_column(column, justify="left" if column == "step" else "right")
    for name, shape in _examples(profile).items():
        low, high = curve.interval(shape)
        table.add_row(name, f"{curve.seconds(shape) * 1e3:.2f}",
                      f"{low * 1e3:.2f} to {high * 1e3:.2f}")
    console.print(table)
    console.print(
        f"a step takes {curve.base * 1e3:.3g} ms, {curve.chunk * 1e3:.3g} ms a chunk, "
        f"{curve.token * 1e6:.3g} us a prompt token and {curve.pair * 1e9:.3g} ns a pair, "
        f"{curve.decode * 1e6:.3g} us a decode and {curve.context * 1e9:.3g} ns a context token"
    )
    error = profile.error
    if error is not None:
        console.print(
            f"predicted against actual, {error.steps} steps that were not fitted: "
            f"{error.median:.1%} off at the median, {error.p90:.1%} at p90; the same step again: "
            f"{error.again_median:.1%} and {error.again_p90:.1%}"
        )
        if error.ahead_median is not None:
            console.print(
                f"learned on the way, each step predicted from those before it: "
                f"{error.ahead_median:.1%} and {error.ahead_p90:.1%}"
            )


def _examples(profile: Profile) -> dict[str, StepShape]:
    contexts = [shape for shape, _ in profile.samples if shape.decode_sequences]
    most = max((shape.decode_sequences for shape in contexts), default=1)
    tokens = max((shape.prefill_tokens for shape, _ in profile.samples), default=1)
    middle = max(1, most // 4)
    return {
        "decode 1, context 512": StepShape.decodes(1, 512),
        f"decode {middle}, context 512": StepShape.decodes(middle, middle * 512),
        f"decode {most}, context 512": StepShape.decodes(most, most * 512),
        f"prefill {tokens}": StepShape.chunk(tokens),
        f"prefill {tokens} after 1024": StepShape.chunk(tokens, 1024),
        f"prefill {tokens // 4} beside decode {middle}":
            StepShape.chunk(tokens // 4) + StepShape.decodes(middle, middle * 512),
    }
