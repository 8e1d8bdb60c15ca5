"""Writes a tiny random model in Hugging Face's layout: real configuration, weights, tokenizer.

Small enough that a forward pass takes about a millisecond, real enough that transformers loads it
too. Needs no torch, except for `dtype="bfloat16"`. Run as a script to write one:
`python -P -m baton.bench.tiny_model DIRECTORY`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

MODEL_TYPES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}

SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
"""Ids 0, 1, 2; the last ends a turn and is the eos token."""

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

CORPUS = (
    "The capital of France is Paris. The capital of Italy is Rome, and the river there is the "
    "Tiber. Once upon a time a runner carried a baton and handed it to the next runner, who ran "
    "on. A prompt is read by one worker and the answer is written by another worker. "
    "What is the weather like today? It is warm, it is sunny, and the wind comes from the west. "
    "def main(argument): return [value for value in argument if value is not None]\n"
    "Grüße aus Köln: naïve café, señor, übermäßig. 日本語の文章です。 Ünïcödé 🙂 🚀\n"
    "Numbers such as 12345, 67890 and 3.14159 are split into digits by some tokenizers. "
)


def make_tiny_model(
    directory: Path,
    *,
    architecture: str = "LlamaForCausalLM",
    vocab_size: int = 512,
    hidden: int = 64,
    layers: int = 2,
    heads: int = 4,
    kv_heads: int = 2,
    max_position: int = 512,
    seed: int = 0,
    dtype: str = "float32",
    shards: int = 1,
    tie: bool = False,
    overrides: Mapping[str, Any] | None = None,
) -> Path:
    """Writes config.json, *.safetensors, tokenizer.json, tokenizer_config.json and
    generation_config.json into `directory` (made if absent) and returns it.

    The same arguments give the same bytes. `dtype` is float32, float16 or bfloat16; `overrides`
    are put into config.json last, and the weights follow them.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    config: dict[str, Any] = {
        "architectures": [architecture],
        "model_type": MODEL_TYPES[architecture],
        "vocab_size": vocab_size,
        "hidden_size": hidden,
        "intermediate_size": hidden * 2,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": hidden // heads,
        "hidden_act": "silu",
        "max_position_embeddings": max_position,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": tie,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "torch_dtype": dtype,
    }
    if architecture == "MistralForCausalLM":
        config["sliding_window"] = None
    config |= dict(overrides or {})
    _write_json(directory / "config.json", config)
    _write_json(directory / "generation_config.json", {"bos_token_id": 0, "eos_token_id": [2, 0]})
    _write_weights(directory, random_weights(config, seed), dtype, shards)
    _write_tokenizer(directory, vocab_size)
    return directory


def random_weights(config: Mapping[str, Any], seed: int) -> dict[str, npt.NDArray[np.float32]]:
    """HF-named float32 arrays, scaled so that activations stay near one and logits well apart."""
    rng = np.random.default_rng(seed)
    hidden, inter = config["hidden_size"], config["intermediate_size"]
    queries = config["num_attention_heads"] * config["head_dim"]
    keys = config["num_key_value_heads"] * config["head_dim"]
    kind = config["architectures"][0]
    output_bias = bool(config.get("attention_bias", False)) and kind != "Qwen2ForCausalLM"
    input_bias = output_bias or kind == "Qwen2ForCausalLM"
    mlp_bias = bool(config.get("mlp_bias", False))
    weights: dict[str, npt.NDArray[np.float32]] = {}

    def linear(name: str, rows: int, columns: int, bias: bool = False) -> None:
        scale = columns**-0.5
        weights[f"{name}.weight"] = rng.standard_normal((rows, columns), dtype=np.float32) * scale
        if bias:
            weights[f"{name}.bias"] = rng.standard_normal(rows, dtype=np.float32) * 0.1

    def norm(name: str, size: int) -> None:
        weights[f"{name}.weight"] = 1 + rng.standard_normal(size, dtype=np.float32) * 0.1

    linear("model.embed_tokens", config["vocab_size"], hidden)
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}"
        norm(f"{prefix}.input_layernorm", hidden)
        linear(f"{prefix}.self_attn.q_proj", queries, hidden, input_bias)
        linear(f"{prefix}.self_attn.k_proj", keys, hidden, input_bias)
        linear(f"{prefix}.self_attn.v_proj", keys, hidden, input_bias)
        linear(f"{prefix}.self_attn.o_proj", hidden, queries, output_bias)
        if kind == "Qwen3ForCausalLM":
            norm(f"{prefix}.self_attn.q_norm", config["head_dim"])
            norm(f"{prefix}.self_attn.k_norm", config["head_dim"])
        norm(f"{prefix}.post_attention_layernorm", hidden)
        linear(f"{prefix}.mlp.gate_proj", inter, hidden, mlp_bias)
        linear(f"{prefix}.mlp.up_proj", inter, hidden, mlp_bias)
        linear(f"{prefix}.mlp.down_proj", hidden, inter, mlp_bias)
    norm("model.norm", hidden)
    if not config["tie_word_embeddings"]:
        linear("lm_head", config["vocab_size"], hidden)
        weights["lm_head.weight"] *= 4
    return weights


def _write_weights(
    directory: Path,
    weights: Mapping[str, npt.NDArray[np.float32]],
    dtype: str,
    shards: int,
) -> None:
    names = list(weights)
    weight_map: dict[str, str] = {}
    for shard in range(shards):
        whole = shards == 1
        part = "model" if whole else f"model-{shard + 1:05d}-of-{shards:05d}"
        mine = {name: weights[name] for name in names[shard::shards]}
        _save(mine, directory / f"{part}.safetensors", dtype)
        weight_map |= dict.fromkeys(mine, f"{part}.safetensors")
    if shards > 1:
        width = 4 if dtype == "float32" else 2
        total = sum(array.size for array in weights.values()) * width
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        _write_json(directory / "model.safetensors.index.json", index)


def _save(weights: Mapping[str, npt.NDArray[np.float32]], path: Path, dtype: str) -> None:
    if dtype == "float32":
        save_file(dict(weights), path, {"format": "pt"})
        return
    import torch  # numpy has no bfloat16
    from safetensors.torch import save_file as save_tensors

    target = getattr(torch, dtype)
    tensors = {name: torch.from_numpy(array).to(target) for name, array in weights.items()}
    save_tensors(tensors, path, {"format": "pt"})


def _write_tokenizer(directory: Path, vocab_size: int) -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([CORPUS] * 4, trainer)
    tokenizer.save(str(directory / "tokenizer.json"))
    _write_json(
        directory / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "<|endoftext|>",
            "eos_token": "<|im_end|>",
            "model_max_length": 512,
            "chat_template": CHAT_TEMPLATE,
        },
    )


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    print(make_tiny_model(Path(sys.argv[1])))
