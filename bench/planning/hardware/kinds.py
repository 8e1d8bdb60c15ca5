"""Hardware by name: what a worker is made of, and where its step times come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from baton.bench.planning.hardware.devices import DEVICES
from baton.bench.planning.hardware.made import made
from baton.bench.planning.hardware.measured import machine_of, read_profile, what_is_guessed
from baton.bench.planning.hardware.named import Named, workers_of
from baton.bench.planning.hardware.published import (
    Published,
    from_distserve,
    from_splitwise,
    read_distserve,
)
from baton.bench.planning.hardware.same_model import check_name, check_profile
from baton.bench.planning.models import model_shape
from baton.bench.simulator.machine import Machine
from baton.protocol.curves import LinkCurve
from baton.protocol.errors import ConfigError

MADE = "made"
WHAT_THERE_IS = (
    f"a file of `baton profile`, FILE[:MODEL[:TP]] of DistServe's fits or Splitwise's CSV, "
    f"`{MADE}`, or a device, DEVICE[:SOURCE]: {', '.join(sorted(DEVICES))}"
)


@dataclass(frozen=True, kw_only=True)
class WorkerKind:
    """One way to run the model on these devices."""

    machine: Machine
    devices: int
    """Accelerators per worker: the tensor-parallel size."""
    origin: str
    """"measured", "silicon" or "roofline"."""
    error: float | None
    """Median relative error of its step times, where known."""
    note: str
    """One line: where the numbers come from."""
    per_host: int = 1
    """Workers that share a host and its link; the same for all kinds of a cluster."""


def worker_kinds(
    hardware: str,
    model: str | None = None,
    *,
    dtype: str | None = None,
    link: LinkCurve | None = None,
    tensor_parallel: Sequence[int] = (),
) -> list[WorkerKind]:
    """All that there are of `hardware`, at least one, by devices. `model` and `dtype` (of its
    weights) matter where it is not a measurement of one model; `link` replaces what is known or
    assumed of the network.

        a file of `baton profile`        what was measured
        FILE[:MODEL[:TP]]                a DistServe fit, or Splitwise's CSV (MODEL[@HARDWARE])
        h100, a100, l40s, ...            silicon where that is installed and knows it, else roofline
        h100:roofline, h100:silicon,     the one or the other; or silicon with the kernels of
        h100:vllm, h100:trtllm, ...      one engine
        made                             13 billion parameters from round figures

    Raises ConfigError, one line that names what there is.
    """
    found = _find(hardware, model, dtype, tensor_parallel)
    if tensor_parallel:
        kept = [kind for kind in found if kind.devices in tensor_parallel]
        if not kept:
            there = ", ".join(str(kind.devices) for kind in found)
            raise ConfigError(f"{hardware} has workers of {there} devices, none of "
                              f"{', '.join(map(str, tensor_parallel))}")
        found = kept
    if link is not None:
        found = [replace(kind, machine=replace(kind.machine, link=link)) for kind in found]
    return found


def load_machine(text: str | None) -> Machine:
    """The first kind of this hardware; `None`: the made one. Raises ConfigError, one line."""
    return worker_kinds(MADE if text is None else text)[0].machine


# -- inside ----------------------------------------------------------------------------------


def _find(
    text: str, model: str | None, dtype: str | None, sizes: Sequence[int]
) -> list[WorkerKind]:
    if text == MADE:
        if model is not None:
            raise ConfigError(f"{MADE} is made of round figures, of no model: leave --model out, "
                              "or name a device such as h100")
        return [WorkerKind(machine=made(), devices=1, origin="roofline", error=None,
                           note="13 billion parameters on 80 GB, 2 TB/s and 312 TFLOP/s")]
    named = Named.parse(text)
    if named is not None:
        if model is None:
            raise ConfigError(f"{text}: of which model? A device alone has no step times")
        return [
            WorkerKind(machine=found.machine, devices=found.devices, origin=found.origin,
                       error=found.error, note=found.note)
            for found in workers_of(named, model_shape(model, dtype), sizes)
        ]
    try:
        return _of_file(text, model, dtype, sizes)
    except OSError as error:
        name = text.partition(":")[0]
        raise ConfigError(
            f"cannot read {name}: {error.strerror}; hardware is {WHAT_THERE_IS}"
        ) from error
    except (ValueError, KeyError) as error:
        raise ConfigError(
            f"{text} is no profile: {error}; hardware is {WHAT_THERE_IS}"
        ) from error


def _of_file(
    text: str, model: str | None, dtype: str | None, sizes: Sequence[int]
) -> list[WorkerKind]:
    name, _, rest = text.partition(":")
    path = Path(name)
    inner, _, degree = rest.rpartition(":")
    if rest and not degree.isdecimal():
        inner, degree = rest, ""
    wanted = inner or model
    if inner:
        check_name(name, inner.partition("@")[0], model)
    if degree:
        sizes = (int(degree),)
    if path.suffix.lower() == ".csv":
        return [_of(published) for published in from_splitwise(path, wanted, sizes)]
    if rest or (wanted is not None and _is_distserve(path)):
        fits = read_distserve(path)
        if wanted not in fits:
            raise ConfigError(f"{path} has {', '.join(fits)}, not {wanted}")
        return [
            _of(from_distserve(path, wanted, size))
            for size in (sizes if degree else sorted(fits[wanted]))
        ]
    profile = read_profile(path)
    check_profile(name, profile, model, dtype)
    return [WorkerKind(
        machine=machine_of(profile),
        devices=1,
        origin="measured",
        error=None if profile.error is None else profile.error.median,
        note=f"`baton profile` on {profile.device_name}, {profile.threads} threads"
             f"{what_is_guessed(profile)}",
    )]


def _is_distserve(path: Path) -> bool:
    try:
        read_distserve(path)
    except (ValueError, KeyError, TypeError, AttributeError):
        return False
    return True


def _of(published: Published) -> WorkerKind:
    return WorkerKind(machine=published.machine, devices=published.devices, origin="measured",
                      error=published.error, note=published.note)
