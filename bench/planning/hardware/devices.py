"""Accelerators by name, as their makers' data sheets state them: dense arithmetic, no sparsity."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Device:
    """One accelerator."""

    memory: float
    """Bytes."""
    bandwidth: float
    """Of its memory, bytes per second."""
    bf16: float
    """FLOP per second."""
    fp8: float | None
    """None: 8-bit weights are computed with in 16 bits."""
    peer: float
    """Bytes per second and direction to the accelerators of its machine."""
    network: float
    """Bytes per second and direction to other machines, its share of the adapters."""
    silicon: str | None = None
    """Its name in the databases of measured kernels."""


GB = 1e9
TFLOP = 1e12

DEVICES: dict[str, Device] = {
    "a10": Device(memory=24 * GB, bandwidth=600 * GB, bf16=125 * TFLOP, fp8=None,
                  peer=25 * GB, network=12.5 * GB),
    "a100": Device(memory=80 * GB, bandwidth=2039 * GB, bf16=312 * TFLOP, fp8=None,
                   peer=300 * GB, network=25 * GB, silicon="a100_sxm"),
    "a100-40g": Device(memory=40 * GB, bandwidth=1555 * GB, bf16=312 * TFLOP, fp8=None,
                       peer=300 * GB, network=25 * GB),
    "a100-pcie": Device(memory=80 * GB, bandwidth=1935 * GB, bf16=312 * TFLOP, fp8=None,
                        peer=25 * GB, network=25 * GB, silicon="a100_pcie"),
    "a30": Device(memory=24 * GB, bandwidth=933 * GB, bf16=165 * TFLOP, fp8=None,
                  peer=25 * GB, network=12.5 * GB, silicon="a30"),
    "b200": Device(memory=180 * GB, bandwidth=7700 * GB, bf16=2250 * TFLOP, fp8=4500 * TFLOP,
                   peer=900 * GB, network=50 * GB, silicon="b200_sxm"),
    "gb200": Device(memory=186 * GB, bandwidth=8000 * GB, bf16=2500 * TFLOP, fp8=5000 * TFLOP,
                    peer=900 * GB, network=50 * GB, silicon="gb200"),
    "h100": Device(memory=80 * GB, bandwidth=3350 * GB, bf16=989 * TFLOP, fp8=1979 * TFLOP,
                   peer=450 * GB, network=50 * GB, silicon="h100_sxm"),
    "h100-pcie": Device(memory=80 * GB, bandwidth=2000 * GB, bf16=756 * TFLOP, fp8=1513 * TFLOP,
                        peer=50 * GB, network=25 * GB, silicon="h100_pcie"),
    "h200": Device(memory=141 * GB, bandwidth=4800 * GB, bf16=989 * TFLOP, fp8=1979 * TFLOP,
                   peer=450 * GB, network=50 * GB, silicon="h200_sxm"),
    "l4": Device(memory=24 * GB, bandwidth=300 * GB, bf16=121 * TFLOP, fp8=242 * TFLOP,
                 peer=25 * GB, network=12.5 * GB, silicon="l4"),
    "l40s": Device(memory=48 * GB, bandwidth=864 * GB, bf16=362 * TFLOP, fp8=733 * TFLOP,
                   peer=25 * GB, network=25 * GB, silicon="l40s"),
    "mi300x": Device(memory=192 * GB, bandwidth=5300 * GB, bf16=1307 * TFLOP, fp8=2614 * TFLOP,
                     peer=448 * GB, network=50 * GB),
    "rtx4090": Device(memory=24 * GB, bandwidth=1008 * GB, bf16=165 * TFLOP, fp8=330 * TFLOP,
                      peer=25 * GB, network=1.25 * GB),
}
