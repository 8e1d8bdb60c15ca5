"""The runner and its memory: results in the order asked for, prompt log-probabilities, buffers
for the transport."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from baton.engine.batch import BatchItem
from baton.engine.kv_memory import KVMemory
from baton.engine.model.config import config_from_hf
from baton.engine.models.llama import LlamaModel
from baton.engine.models.registry import build_model
from baton.engine.runner import ModelRunner
from baton.engine.sequence import Sequence
from baton.protocol.errors import ConfigError
from baton.protocol.ids import RequestKey
from baton.protocol.kvlayout import KVLayout
from baton.protocol.records import Request
from baton.protocol.sampling import SamplingParams
from baton.protocol.tokens import pack_tokens

VOCAB = 101
BLOCK = 8


@pytest.fixture(scope="module")
def hf() -> Any:
    torch.manual_seed(3)
    config = transformers.LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=3,
        num_key_value_heads=1,
        max_position_embeddings=256,
        initializer_range=0.4,
    )
    return transformers.LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def model(hf: Any) -> LlamaModel:
    config = config_from_hf({**hf.config.to_dict(), "architectures": ["LlamaForCausalLM"]})
    built = build_model(config, dtype=torch.float32, device="cpu")
    built.load_weights(iter(hf.state_dict().items()))
    return built


def make_runner(model: LlamaModel, blocks: int = 64) -> ModelRunner:
    return ModelRunner(model, KVMemory(model.kv_layout(BLOCK), blocks, "cpu"))


def make_seq(index: int, length: int, blocks: list[int], **params: Any) -> Sequence:
    rng = random.Random(index)
    request = Request(
        key=RequestKey(f"r{index}", 0),
        choice=0,
        prompt=pack_tokens([rng.randrange(VOCAB) for _ in range(length)]),
        sampling=SamplingParams(**{"seed": 0, "max_tokens": 50, "temperature": 0.0, **params}),
    )
    seq = Sequence.from_request(request, hold=False)
    seq.block_ids = blocks
    return seq


def advance(runner: ModelRunner, seqs: list[Sequence], paces: list[int]) -> None:
    """One step, as the scheduler would take it."""
    items = []
    for seq, pace in zip(seqs, paces, strict=True):
        count = min(pace, seq.num_uncomputed)
        items.append(BatchItem(seq, count, count == seq.num_uncomputed))
    result = runner.step(items)
    for item, token in zip(items, result.tokens, strict=True):
        assert (token is not None) == item.sample
        item.seq.num_computed += item.num_tokens
        if token is not None:
            item.seq.tokens.append(token)


def test_greedy_tokens_of_transformers_in_mixed_steps(hf: Any, model: LlamaModel) -> None:
    runner = make_runner(model)
    ids = iter(random.Random(1).sample(range(64), 64))
    lengths, paces = [3, 20, 9, 1], [2, 7, 100, 1]
    seqs = [
        make_seq(n, length, [next(ids) for _ in range(-(-(length + 30) // BLOCK))])
        for n, length in enumerate(lengths)
    ]
    while min(seq.num_output for seq in seqs) < 12:
        advance(runner, seqs, paces)
    for seq in seqs:
        with torch.inference_mode():
            logits = hf(torch.tensor([seq.tokens])).logits[0]
        predicted = logits.argmax(1).tolist()
        assert seq.tokens[seq.prompt_len :] == predicted[seq.prompt_len - 1 : -1]


@pytest.mark.parametrize("pace", [100, 6, 1])
def test_prompt_logprobs(hf: Any, model: LlamaModel, pace: int) -> None:
    runner = make_runner(model)
    seq = make_seq(5, 20, [9, 2, 30, 1], prompt_logprobs=3)
    found = []
    while seq.num_computed < seq.prompt_len:
        count = min(pace, seq.num_uncomputed)
        result = runner.step([BatchItem(seq, count, False)])
        found += result.prompt_logprobs[0] or ()
        seq.num_computed += count
    with torch.inference_mode():
        reference = hf(torch.tensor([seq.tokens])).logits[0].log_softmax(1)
    assert [entry.token for entry in found] == seq.tokens[1:]
    for row, entry in enumerate(found):
        assert entry.logprob == pytest.approx(float(reference[row, entry.token]), abs=1e-4)
        best = reference[row].topk(3)
        assert [token for token, _ in entry.top] == best.indices.tolist()


def test_a_step_without_items(model: LlamaModel) -> None:
    assert make_runner(model).step([]).tokens == []


@pytest.mark.parametrize("blocks", [1, 64])
def test_warm_up_fits_any_pool(model: LlamaModel, blocks: int) -> None:
    make_runner(model, blocks).warm_up()


class TestKVMemory:
    layout = KVLayout(2, 3, 8, 4, "bfloat16")

    def test_starts_as_zeros_and_buffers_are_the_pool(self) -> None:
        memory = KVMemory(self.layout, 5, "cpu")
        assert memory.tensor.shape == (5, *self.layout.shape)
        assert not memory.tensor.any()
        buffer = memory.block_buffer(3)
        assert buffer.dtype == np.uint8
        assert buffer.nbytes == self.layout.block_bytes
        assert buffer.flags.c_contiguous
        assert buffer.flags.writeable
        buffer[:] = 1
        assert memory.tensor[3].all()
        assert not memory.tensor[2].any()
        assert not memory.tensor[4].any()

    def test_layer_views_follow_the_layout(self) -> None:
        memory = KVMemory(self.layout, 5, "cpu")
        memory.layer_views[1].values[4, 2, 3, 7] = 1.0
        assert float(memory.tensor[4, 1, 1, 2, 3, 7]) == 1.0

    def test_outside_the_pool(self) -> None:
        memory = KVMemory(self.layout, 5, "cpu")
        for block in (-1, 5):
            with pytest.raises(IndexError):
                memory.block_buffer(block)

    def test_too_large_says_so(self) -> None:
        with pytest.raises(ConfigError, match="ask for fewer"):
            KVMemory(KVLayout(64, 64, 256, 64, "float32"), 2**40 // 2**16, "cpu")
