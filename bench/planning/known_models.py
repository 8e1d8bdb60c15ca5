"""Sizes of models that people plan for, as their `config.json` on the hub states them: so that a
plan needs no network. What is not listed is read from a config."""

from __future__ import annotations

from typing import Any


def _dense(
    layers: int, hidden: int, intermediate: int, heads: int, kv_heads: int, vocab: int,
    **more: Any,
) -> dict[str, Any]:
    more.setdefault("head_dim", hidden // heads)
    return {"layers": layers, "hidden": hidden, "intermediate": intermediate, "heads": heads,
            "kv_heads": kv_heads, "vocab": vocab, **more}


def _opt(layers: int, hidden: int, heads: int) -> dict[str, Any]:
    return _dense(layers, hidden, 4 * hidden, heads, heads, 50272, gated=False, tied=True,
                  dtype="float16", max_position=2048)


_LLAMA3 = {"vocab": 128256, "max_position": 131_072}

KNOWN: dict[str, dict[str, Any]] = {
    "bloom-176b": _dense(70, 14336, 57344, 112, 112, 250880, gated=False, tied=True,
                         max_position=2048),
    "llama-3.1-8b": _dense(32, 4096, 14336, 32, 8, **_LLAMA3),
    "llama-3.1-70b": _dense(80, 8192, 28672, 64, 8, **_LLAMA3),
    "llama-3.1-405b": _dense(126, 16384, 53248, 128, 8, **_LLAMA3),
    "llama-3.2-1b": _dense(16, 2048, 8192, 32, 8, tied=True, **_LLAMA3),
    "llama-3.2-3b": _dense(28, 3072, 8192, 24, 8, tied=True, **_LLAMA3),
    "llama-3.3-70b": _dense(80, 8192, 28672, 64, 8, **_LLAMA3),
    "llama-2-7b": _dense(32, 4096, 11008, 32, 32, 32000, dtype="float16", max_position=4096),
    "llama-2-13b": _dense(40, 5120, 13824, 40, 40, 32000, dtype="float16", max_position=4096),
    "llama-2-70b": _dense(80, 8192, 28672, 64, 8, 32000, dtype="float16", max_position=4096),
    "mistral-7b": _dense(32, 4096, 14336, 32, 8, 32768),
    "mixtral-8x7b": _dense(32, 4096, 14336, 32, 8, 32000, experts=8, active_experts=2),
    "mixtral-8x22b": _dense(56, 6144, 16384, 48, 8, 32768, experts=8, active_experts=2,
                            max_position=65_536),
    "opt-6.7b": _opt(32, 4096, 32),
    "opt-13b": _opt(40, 5120, 40),
    "opt-30b": _opt(48, 7168, 56),
    "opt-66b": _opt(64, 9216, 72),
    "qwen2.5-7b": _dense(28, 3584, 18944, 28, 4, 152064),
    "qwen2.5-14b": _dense(48, 5120, 13824, 40, 8, 152064),
    "qwen2.5-32b": _dense(64, 5120, 27648, 40, 8, 152064),
    "qwen2.5-72b": _dense(80, 8192, 29568, 64, 8, 152064),
    "qwen3-0.6b": _dense(28, 1024, 3072, 16, 8, 151936, head_dim=128, tied=True,
                         max_position=40_960),
    "qwen3-8b": _dense(36, 4096, 12288, 32, 8, 151936, max_position=40_960),
    "qwen3-14b": _dense(40, 5120, 17408, 40, 8, 151936, max_position=40_960),
    "qwen3-32b": _dense(64, 5120, 25600, 64, 8, 151936, head_dim=128, max_position=40_960),
    "qwen3-30b-a3b": _dense(48, 2048, 768, 32, 4, 151936, head_dim=128, experts=128,
                            active_experts=8, max_position=40_960),
    "qwen3-235b-a22b": _dense(94, 4096, 1536, 64, 4, 151936, head_dim=128, experts=128,
                              active_experts=8, max_position=40_960),
    "smollm2-135m": _dense(30, 576, 1536, 9, 3, 49152, tied=True, max_position=8192),
}
