"""Per architecture: a small random model gives the logits of transformers, however its tokens
are spread over steps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

from baton.engine.batch import BatchItem
from baton.engine.kv_memory import KVMemory
from baton.engine.model.config import ModelConfig, config_from_hf
from baton.engine.models.llama import LlamaModel
from baton.engine.models.registry import build_model
from baton.engine.runner import ModelRunner
from baton.engine.sequence import Sequence
from baton.kernels.ops import Ops, select_ops
from baton.kernels.reference import ReferenceOps
from baton.protocol.errors import ConfigError
from baton.protocol.ids import RequestKey
from baton.protocol.records import Request
from baton.protocol.sampling import SamplingParams
from baton.protocol.tokens import pack_tokens

VOCAB = 199
TOLERANCE = 2e-5
"""Of the largest logit."""

SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,
    "attn_implementation": "eager",
}


def _rope(**scaling: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_theta": 10000.0, **scaling}}


LLAMA3 = _rope(
    rope_type="llama3",
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=32,
)
YARN = _rope(rope_type="yarn", factor=4.0, original_max_position_embeddings=64)

CONFIGS = {
    "llama": lambda: transformers.LlamaConfig(**SIZES),
    "llama-biased-tied": lambda: transformers.LlamaConfig(
        **SIZES, attention_bias=True, mlp_bias=True, tie_word_embeddings=True
    ),
    "llama-llama3": lambda: transformers.LlamaConfig(**SIZES, **LLAMA3),
    "llama-linear": lambda: transformers.LlamaConfig(
        **SIZES, **_rope(rope_type="linear", factor=4.0)
    ),
    "llama-yarn": lambda: transformers.LlamaConfig(**SIZES, **YARN),
    "mistral-window": lambda: transformers.MistralConfig(**SIZES, sliding_window=11),
    "qwen2": lambda: transformers.Qwen2Config(**SIZES),
    "qwen2-upper-window": lambda: transformers.Qwen2Config(
        **SIZES, use_sliding_window=True, sliding_window=7, max_window_layers=1
    ),
    "qwen3": lambda: transformers.Qwen3Config(**SIZES, head_dim=24),
}


def _random_hf(name: str) -> Any:
    torch.manual_seed(7)
    config = CONFIGS[name]()
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    for parameter in model.parameters():
        if parameter.dim() == 1:  # Biases are 0 and norms 1 by default, which would hide faults.
            torch.nn.init.normal_(parameter, mean=0.5, std=0.5)
    return model


def _tensors(hf: Any) -> dict[str, torch.Tensor]:
    tensors = dict(hf.state_dict())
    if hf.config.tie_word_embeddings:
        tensors.pop("lm_head.weight")
    return tensors


def _config(hf: Any) -> ModelConfig:
    return config_from_hf({**hf.config.to_dict(), "architectures": [type(hf).__name__]})


def _ours(hf: Any, ops: Ops | None = None) -> LlamaModel:
    model = build_model(_config(hf), dtype=torch.float32, device="cpu", ops=ops)
    model.load_weights(iter(_tensors(hf).items()))
    return model


class LogitRunner(ModelRunner):
    """A runner that keeps the logits of every token it computes."""

    def __init__(self, model: LlamaModel, num_blocks: int, block_size: int) -> None:
        super().__init__(model, KVMemory(model.kv_layout(block_size), num_blocks, "cpu"))
        self.seen: dict[tuple[str, int], torch.Tensor] = {}

    @torch.inference_mode()
    def run(self, items: list[BatchItem]) -> None:
        ordered = sorted(items, key=lambda item: item.num_tokens != 1)
        tokens, batch = self._prepare(ordered)
        logits = self.model.logits(self.model.forward(tokens, batch, self.memory.layer_views))
        row = 0
        for item in ordered:
            for offset in range(item.num_tokens):
                key = (item.seq.key.request_id, item.seq.num_computed + offset)
                self.seen[key] = logits[row]
                row += 1
            item.seq.num_computed += item.num_tokens

    def of(self, seq: Sequence) -> torch.Tensor:
        return torch.stack([self.seen[seq.key.request_id, n] for n in range(len(seq.tokens))])


def _sequences(lengths: list[int], block_size: int, shuffle: int = 3) -> tuple[list[Sequence], int]:
    """Sequences with scattered blocks, and the size of the pool they need."""
    generator = torch.Generator().manual_seed(shuffle)
    needed = [-(-length // block_size) for length in lengths]
    blocks = torch.randperm(sum(needed) + 2, generator=generator).tolist()
    sequences = []
    for index, (length, count) in enumerate(zip(lengths, needed, strict=True)):
        tokens = torch.randint(0, VOCAB, (length,), generator=generator).tolist()
        request = Request(
            key=RequestKey(f"r{index}", 0),
            choice=0,
            prompt=pack_tokens(tokens),
            sampling=SamplingParams(seed=0, max_tokens=1, temperature=0.0),
        )
        seq = Sequence.from_request(request, hold=False)
        seq.block_ids = [blocks.pop() for _ in range(count)]
        sequences.append(seq)
    return sequences, sum(needed) + 2


def _chunked(total: int, size: int) -> list[int]:
    return [size] * (total // size) + ([total % size] if total % size else [])


def _assert_matches(hf: Any, runner: LogitRunner, sequences: list[Sequence]) -> None:
    for seq in sequences:
        with torch.inference_mode():
            expected = hf(torch.tensor([seq.tokens])).logits[0]
        error = (runner.of(seq) - expected).abs().max() / expected.abs().max()
        assert error < TOLERANCE


@pytest.mark.parametrize("ops", ["selected", "reference"])
@pytest.mark.parametrize("name", CONFIGS)
def test_prefill_in_one_go_in_chunks_and_token_by_token(name: str, ops: str) -> None:
    hf = _random_hf(name)
    chosen = (
        ReferenceOps() if ops == "reference" else select_ops(torch.device("cpu"), torch.float32)
    )
    model = _ours(hf, chosen)
    for size in (70, 32, 13, 1):
        sequences, blocks = _sequences([70], block_size=8)
        runner = LogitRunner(model, blocks, block_size=8)
        for chunk in _chunked(70, size):
            runner.run([BatchItem(sequences[0], chunk, False)])
        _assert_matches(hf, runner, sequences)


@pytest.mark.parametrize("name", ["llama", "mistral-window", "qwen2", "qwen3"])
def test_mixed_batches(name: str) -> None:
    """Sequences of different lengths, each at its own pace: decode rows beside chunks."""
    hf = _random_hf(name)
    lengths = [5, 64, 33, 90, 17, 2]
    paces = [1, 16, 1, 30, 17, 1]
    sequences, blocks = _sequences(lengths, block_size=16)
    runner = LogitRunner(_ours(hf), blocks, block_size=16)
    while any(seq.num_uncomputed for seq in sequences):
        runner.run(
            [
                BatchItem(seq, min(pace, seq.num_uncomputed), False)
                for seq, pace in zip(sequences, paces, strict=True)
                if seq.num_uncomputed
            ]
        )
    _assert_matches(hf, runner, sequences)


def test_other_axis_order() -> None:
    """The order of a block's axes is a value; the result does not depend on it."""
    hf = _random_hf("llama")
    sequences, blocks = _sequences([40, 21], block_size=8)
    runner = LogitRunner(_ours(hf), blocks, block_size=8)
    layout = runner.memory.layout
    other = type(layout)(
        layout.num_layers, layout.num_kv_heads, layout.head_dim, layout.block_size, layout.dtype,
        ("layer", "token", "kv", "head", "dim"),
    )
    runner.memory = KVMemory(other, blocks, "cpu")
    while any(seq.num_uncomputed for seq in sequences):
        runner.run(
            [
                BatchItem(seq, min(pace, seq.num_uncomputed), False)
                for seq, pace in zip(sequences, (9, 1), strict=True)
                if seq.num_uncomputed
            ]
        )
    _assert_matches(hf, runner, sequences)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_close(dtype: torch.dtype) -> None:
    hf = _random_hf("llama")
    model = build_model(_config(hf), dtype=dtype, device="cpu")
    model.load_weights(iter(_tensors(hf).items()))
    sequences, blocks = _sequences([50], block_size=16)
    runner = LogitRunner(model, blocks, block_size=16)
    for chunk in [24, 20, 1, 1, 1, 1, 1, 1]:
        runner.run([BatchItem(sequences[0], chunk, False)])
    with torch.inference_mode():
        expected = hf(torch.tensor([sequences[0].tokens])).logits[0]
    error = (runner.of(sequences[0]) - expected).abs().mean() / expected.abs().max()
    assert error < (0.02 if dtype is torch.bfloat16 else 0.003)


class TestLoading:
    def test_unknown_architecture_lists_the_known(self) -> None:
        config = _config(_random_hf("llama"))
        fields = {name: getattr(config, name) for name in config.__slots__}
        other = ModelConfig(**{**fields, "architecture": "GPT2LMHeadModel"})
        with pytest.raises(ConfigError, match=r"GPT2LMHeadModel.*LlamaForCausalLM"):
            build_model(other, dtype=torch.float32, device="cpu")

    def _refused(self, tensors: list[tuple[str, torch.Tensor]], hf: Any, match: str) -> None:
        model = build_model(_config(hf), dtype=torch.float32, device="cpu")
        with pytest.raises(ConfigError, match=match):
            model.load_weights(iter(tensors))

    def test_each_tensor_exactly_once_with_its_shape(self) -> None:
        hf = _random_hf("llama")
        tensors = _tensors(hf)
        name = "model.layers.1.self_attn.k_proj.weight"
        self._refused([item for item in tensors.items() if item[0] != name], hf, name)
        self._refused([*tensors.items(), (name, tensors[name])], hf, f"{name}' twice")
        self._refused([("model.extra.weight", torch.zeros(2))], hf, "model.extra.weight")
        wrong = {**tensors, name: torch.zeros(3, 3)}
        self._refused(list(wrong.items()), hf, rf"{name}' has shape \[3, 3\].*\[32, 64\]")
