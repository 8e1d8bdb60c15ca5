"""The prefill stage: prompts in, first token and KV blocks out."""

from baton.prefill.overlap import Overlaps
from baton.prefill.stage import PrefillStage

__all__ = ["Overlaps", "PrefillStage"]
