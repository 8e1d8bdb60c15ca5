"""The tiny random model of the benchmarks, for tests."""

from __future__ import annotations

from baton.bench.tiny_model import CHAT_TEMPLATE, MODEL_TYPES, make_tiny_model, random_weights

__all__ = ["CHAT_TEMPLATE", "MODEL_TYPES", "make_tiny_model", "random_weights"]
