"""Measured time to first token and per output token of clients in a closed loop: the sample of
published runs that comes with `aiconfigurator`, as a CSV file."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from baton.bench.planning.accuracy.closed_loop import Clients
from baton.protocol.errors import ConfigError

EVERY = 12
"""Each so manieth row, the first included, is one that constants are fitted to; errors are of the
others."""
SYSTEMS = {"a100_sxm": "a100", "h100_sxm": "h100", "h200_sxm": "h200", "b200_sxm": "b200",
           "gb200": "gb200", "l40s": "l40s"}
_SHORTEST = 0.8
_VARIED = (1024, 8192)


@dataclass(frozen=True, kw_only=True)
class SiliconRow:
    """One measurement, times in seconds."""

    name: str
    engine: str
    """"vllm", "trtllm" or "sglang"."""
    model: str
    system: str
    """A name in the database of kernels."""
    dtype: str
    """Of the weights."""
    devices: int
    clients: int
    prompt: int
    output: int
    ttft: float
    tpot: float

    @property
    def device(self) -> str:
        return SYSTEMS[self.system]

    @property
    def varied(self) -> bool:
        """By the public suite whose prompts and outputs are of 1024 and 8192 tokens: its lengths
        are uniform from 80 % on, others are fixed."""
        return self.prompt in _VARIED and self.output in _VARIED

    def load(self, shortest: float) -> Clients:
        """`shortest`: of those with fixed lengths, which come back as if they differed a little."""
        return Clients(
            count=self.clients,
            prompt=self.prompt,
            output=self.output,
            shortest=_SHORTEST if self.varied else shortest,
        )


def read_rows(path: Path) -> list[SiliconRow]:
    """Of dense models, colocated. Raises ConfigError, one line."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [
                _row(plain) for plain in csv.DictReader(file)
                if plain["mode"] == "agg" and int(plain["pp_size"] or 1) == 1
                and plain["system"] in SYSTEMS and int(plain["osl"]) > 1
            ]
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (KeyError, ValueError) as error:
        raise ConfigError(f"{path} is no table of measured runs: {error!r}") from error


def fitted_and_others(rows: list[SiliconRow]) -> tuple[list[SiliconRow], list[SiliconRow]]:
    """(those that constants may be fitted to, those that errors are of)."""
    return rows[::EVERY], [row for place, row in enumerate(rows) if place % EVERY]


def _row(plain: dict[str, str]) -> SiliconRow:
    return SiliconRow(
        name=plain["id"],
        engine=plain["backend"],
        model=plain["model_path"],
        system=plain["system"],
        dtype={"": "bfloat16", "bf16": "bfloat16"}.get(plain["precision"], plain["precision"]),
        devices=int(plain["tp_size"]),
        clients=int(plain["batch_size"]),
        prompt=int(plain["isl"]),
        output=int(plain["osl"]),
        ttft=float(plain["silicon_ttft_ms"]) * 1e-3,
        tpot=float(plain["silicon_tpot_ms"]) * 1e-3,
    )
