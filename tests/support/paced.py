"""A made-up machine for workers without a model (`--paced`)."""

from __future__ import annotations

from pathlib import Path

from baton.protocol.curves import StepCurve
from baton.protocol.profile import Profile, encode_profile


def made_up_curve(token: float) -> StepCurve:
    """`token`: seconds that each prompt token adds to a step."""
    return StepCurve(base=8e-3, chunk=0.0, token=token, pair=0.0, decode=1e-4, context=1e-7,
                     spread=0.02, steps=100)


def write_profile(path: Path, curve: StepCurve) -> Path:
    path.write_bytes(encode_profile(Profile(
        model="paced", fingerprint="none", dtype="bfloat16", device="cuda", device_name="made up",
        threads=1, block_size=16, curve=curve,
    )))
    return path
