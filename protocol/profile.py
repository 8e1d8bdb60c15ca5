"""A measured profile of one model on one device, as a file: workers start from it, planner and
simulator read it.

JSON with names throughout, so that people can read it too. Pure: bytes in and out.
"""

from __future__ import annotations

from typing import Any

import msgspec

from baton.protocol.curves import LinkCurve, StepCurve, StepShape

FORMAT = 1
_COLUMNS = (*StepShape.__struct_fields__, "seconds")


class HeldOut(msgspec.Struct, frozen=True, kw_only=True):
    """How well a curve of three quarters of the steps predicts the others, relatively."""

    steps: int
    median: float
    p90: float
    again_median: float
    """The same steps run again: what no curve can be better than."""
    again_p90: float
    ahead_median: float | None = None
    """Each step predicted from those before it, as a worker does, from the 51st on."""
    ahead_p90: float | None = None


class Pool(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker of this kind can hold: its KV cache, and how much it takes on at once."""

    num_layers: int
    num_kv_heads: int
    head_dim: int
    dtype: str
    """Of the KV cache."""
    blocks: int
    max_model_len: int
    """Tokens of one sequence."""
    max_running: int
    max_batch_tokens: int
    """Tokens of one step."""


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """Equal `key`, equal speed: what of another machine or model is not to be used."""

    model: str
    fingerprint: str
    """Of the model and the dtype of its computation."""
    dtype: str
    device: str
    """"cpu" or "cuda"."""
    device_name: str
    threads: int
    block_size: int
    curve: StepCurve
    samples: tuple[tuple[StepShape, float], ...] = ()
    error: HeldOut | None = None
    """None: too few steps to tell."""
    machine: dict[str, Any] = {}
    """What it ran on and by which command."""
    pool: Pool | None = None
    """None in files of before it was stated."""
    link: LinkCurve | None = None
    """To another worker, where it was measured."""

    @property
    def key(self) -> tuple[str, ...]:
        return profile_key(
            self.fingerprint, self.device, self.device_name, self.threads, self.block_size
        )


def profile_key(
    fingerprint: str, device: str, device_name: str, threads: int, block_size: int
) -> tuple[str, ...]:
    """What the speed of a step depends on. Threads of the host do not matter to a GPU."""
    on_host = str(threads) if device == "cpu" else "-"
    return (fingerprint, device, device_name, on_host, str(block_size))


def encode_profile(profile: Profile) -> bytes:
    """Indented JSON."""
    plain: dict[str, Any] = {"format": FORMAT}
    for name in Profile.__struct_fields__:
        plain[name] = getattr(profile, name)
    plain["error"] = msgspec.to_builtins(profile.error)
    plain["curve"] = {
        name: getattr(profile.curve, name) for name in StepCurve.__struct_fields__
    }
    if profile.link is not None:
        plain["link"] = {
            name: getattr(profile.link, name) for name in LinkCurve.__struct_fields__
        }
    plain["columns"] = _COLUMNS
    plain["samples"] = [
        [*(getattr(shape, name) for name in _COLUMNS[:-1]), seconds]
        for shape, seconds in profile.samples
    ]
    return msgspec.json.format(msgspec.json.encode(plain), indent=2) + b"\n"


def decode_profile(data: bytes) -> Profile:
    """Raises ValueError, one line, for what is no profile of this format."""
    try:
        plain = msgspec.json.decode(data, type=dict[str, Any])
        if plain.get("format") != FORMAT:
            raise ValueError(f"format {plain.get('format')!r}, this version reads {FORMAT}")
        curve = plain["curve"]
        plain["curve"] = [curve[name] for name in StepCurve.__struct_fields__]
        if plain.get("link") is not None:
            plain["link"] = [plain["link"][name] for name in LinkCurve.__struct_fields__]
        if plain["columns"] != list(_COLUMNS):
            raise ValueError(f"columns of samples must be {', '.join(_COLUMNS)}")
        plain["samples"] = [(sample[:-1], sample[-1]) for sample in plain["samples"]]
        return msgspec.convert(plain, Profile)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise ValueError(f"not a profile: {error}") from error
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError(f"not a profile: {type(error).__name__} {error}") from error
