"""The sampler: reproducible whatever else is in the batch, cuts what it should, adjusts as the
formulas say."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from baton.engine.sampler import sample
from baton.engine.sampling.randomness import uniforms
from baton.engine.sampling.truncate import truncate
from baton.engine.sequence import Sequence
from baton.protocol.ids import RequestKey
from baton.protocol.records import Request
from baton.protocol.sampling import SamplingParams
from baton.protocol.tokens import pack_tokens

VOCAB = 600


def make_seq(
    prompt: list[int] | None = None,
    output: list[int] | None = None,
    choice: int = 0,
    eos: tuple[int, ...] = (),
    **params: Any,
) -> Sequence:
    sampling = SamplingParams(**{"seed": 1, "max_tokens": 100, **params})
    request = Request(
        key=RequestKey("r", 0),
        choice=choice,
        prompt=pack_tokens([1, 2, 3] if prompt is None else prompt),
        accepted=pack_tokens(output or []),
        sampling=sampling,
        eos_token_ids=eos,
    )
    return Sequence.from_request(request, hold=False)


def random_logits(rows: int, seed: int = 0, spread: float = 3.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, VOCAB, generator=generator) * spread


def draw(logits: torch.Tensor, *seqs: Sequence) -> list[int]:
    return sample(logits.clone(), seqs)[0]


class TestSeed:
    def test_same_token_whatever_the_batch(self) -> None:
        logits = random_logits(6)
        seqs = [
            make_seq(temperature=1.0, seed=5),
            make_seq(temperature=0.0),
            make_seq(temperature=0.7, top_p=0.8, seed=-3),
            make_seq(temperature=1.3, top_k=7, seed=2**63),
            make_seq(temperature=1.0, min_p=0.1, frequency_penalty=0.5, output=[4, 4]),
            make_seq(temperature=1.0, top_k=400, top_p=0.99, logit_bias=((3, 5.0),)),
        ]
        together = draw(logits, *seqs)
        backwards = draw(logits.flip(0), *reversed(seqs))
        alone = [draw(logits[row : row + 1], seq)[0] for row, seq in enumerate(seqs)]
        assert together == alone == backwards[::-1]

    def test_seed_choice_and_position_each_matter(self) -> None:
        base = uniforms([7], [0], [0])[0]
        others = [uniforms([8], [0], [0]), uniforms([7], [1], [0]), uniforms([7], [0], [1])]
        assert len({base, *(float(other[0]) for other in others)}) == 4
        assert uniforms([7], [0], [0])[0] == base

    def test_position_counts_tokens_of_earlier_attempts(self) -> None:
        logits = random_logits(1)
        fresh = make_seq(output=[9, 9])
        grown = make_seq()
        grown.tokens += [9, 9]
        assert draw(logits, fresh) == draw(logits, grown)

    def test_uniform(self) -> None:
        count = 20_000
        numbers = uniforms([3] * count, [0] * count, list(range(count)))
        assert numbers.min() >= 0
        assert numbers.max() < 1
        histogram = np.histogram(numbers, bins=20, range=(0, 1))[0]
        expected = count / 20
        assert ((histogram - expected) ** 2 / expected).sum() < 60
        assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 0.03

    def test_draws_follow_the_distribution(self) -> None:
        logits = torch.tensor([[0.0, 1.0, 2.0, -float("inf"), 0.5]])
        count = 4000
        seqs = [make_seq(seed=n) for n in range(count)]
        drawn = Counter(draw(logits.expand(count, -1), *seqs))
        for token, probability in enumerate(logits[0].softmax(0).tolist()):
            assert abs(drawn[token] / count - probability) < 0.03
        assert drawn[3] == 0


class TestGreedy:
    def test_argmax(self) -> None:
        logits = random_logits(4)
        seqs = [make_seq(temperature=0.0)] * 4
        assert draw(logits, *seqs) == logits.argmax(1).tolist()

    @pytest.mark.parametrize("temperature", [1e-6, 1e-30, 5e-324])
    def test_tiny_temperature_is_nearly_greedy(self, temperature: float) -> None:
        logits = random_logits(1) * 1000
        assert draw(logits, make_seq(temperature=temperature)) == logits.argmax(1).tolist()


def naive_kept(probs: np.ndarray, params: SamplingParams) -> set[int]:  # type: ignore[type-arg]
    """By sorting everything, one filter after the other. Needs distinct probabilities."""
    order = np.argsort(-probs, kind="stable")
    kept = [int(token) for token in order if probs[token] >= params.min_p * probs[order[0]]]
    if params.top_k:
        kept = kept[: params.top_k]
    mass = sum(float(probs[token]) for token in kept)
    result, before = set(), 0.0
    for token in kept:
        if before >= params.top_p * mass and params.top_p < 1.0 and result:
            break
        result.add(token)
        before += float(probs[token])
    return result


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1000),
    spread=st.sampled_from([0.05, 0.5, 3.0]),
    top_k=st.sampled_from([0, 1, 5, 255, 256, 257, 400, 600, 5000]),
    top_p=st.sampled_from([0.0, 0.1, 0.5, 0.9, 0.999, 1.0]),
    min_p=st.sampled_from([0.0, 0.01, 0.5, 1.0]),
)
def test_truncation_against_sorting(
    seed: int, spread: float, top_k: int, top_p: float, min_p: float
) -> None:
    probs = random_logits(2, seed, spread).softmax(1)
    params = SamplingParams(seed=0, max_tokens=1, top_k=top_k, top_p=top_p, min_p=min_p)
    cut = probs.clone()
    truncate(cut, [params, SamplingParams(seed=0, max_tokens=1)])
    assert torch.equal(cut[1], probs[1])
    kept = set(cut[0].nonzero()[:, 0].tolist())
    expected = naive_kept(probs[0].double().numpy(), params)
    # Rounding of the cumulative sum may move the edge of top_p by one token.
    assert abs(len(kept) - len(expected)) <= (1 if 0 < top_p < 1 else 0)
    assert kept <= expected or expected <= kept


def test_equals_at_the_edge_stay_together() -> None:
    probs = torch.full((1, 10), 0.1)
    truncate(probs, [SamplingParams(seed=0, max_tokens=1, top_k=3)])
    assert (probs > 0).all()


class TestPenalties:
    def test_against_the_formulas(self) -> None:
        prompt, output = [3, 3, 10, 20], [10, 30, 30, 30]
        logits = random_logits(1)
        expected = logits[0].clone()
        for token in {3, 10, 20, 30}:
            value = float(expected[token])
            expected[token] = value / 1.7 if value > 0 else value * 1.7
        for token, count in Counter(output).items():
            expected[token] -= 0.4 + 0.3 * count
        expected[50] += 2.5
        seq = make_seq(
            prompt,
            output,
            temperature=0.0,
            repetition_penalty=1.7,
            presence_penalty=0.4,
            frequency_penalty=0.3,
            logit_bias=((50, 2.5),),
            logprobs=5,
        )
        _, logprobs = sample(logits.clone(), [seq])
        reference = expected.log_softmax(0).topk(5)
        assert logprobs[0] is not None
        assert [token for token, _ in logprobs[0].top] == reference.indices.tolist()
        assert [value for _, value in logprobs[0].top] == pytest.approx(
            reference.values.tolist(), abs=1e-5
        )

    @pytest.mark.parametrize("penalty", [1e-300, 1e-30, 10.0])
    @pytest.mark.parametrize("temperature", [0.0, 1.0])
    def test_extreme_penalties_still_give_a_distribution(
        self, penalty: float, temperature: float
    ) -> None:
        logits = random_logits(1)
        logits[0, [1, 2, 3]] = torch.tensor([5.0, 0.0, -5.0])
        seq = make_seq(
            [1, 2, 3], temperature=temperature, repetition_penalty=penalty, logprobs=3
        )
        (token,), (found,) = sample(logits.clone(), [seq])
        assert found is not None
        assert math.isfinite(found.logprob)
        if penalty < 1:
            assert token == 1

    def test_neighbours_are_left_alone(self) -> None:
        logits = random_logits(2)
        biased = make_seq(temperature=0.0, logit_bias=((7, 100.0),))
        plain = make_seq(temperature=0.0)
        assert draw(logits, biased, plain) == [7, int(logits[1].argmax())]


class TestMinTokens:
    def test_ends_are_banned_until_reached(self) -> None:
        logits = torch.zeros(1, VOCAB)
        logits[0, [5, 6]] = 50.0
        logits[0, 8] = 40.0
        params: dict[str, Any] = {
            "temperature": 0.0, "min_tokens": 2, "stop_token_ids": (6,), "eos": (5,),
        }
        assert draw(logits, make_seq(output=[1], **params)) == [8]
        assert draw(logits, make_seq(output=[1, 1], **params)) == [5]

    def test_a_ban_on_everything_is_none(self) -> None:
        logits = random_logits(1)
        seq = make_seq(temperature=0.0, min_tokens=2, stop_token_ids=tuple(range(VOCAB)))
        assert draw(logits, seq) == logits.argmax(1).tolist()

    def test_an_ignored_eos_needs_no_ban(self) -> None:
        logits = torch.zeros(1, VOCAB)
        logits[0, 5] = 50.0
        seq = make_seq(temperature=0.0, min_tokens=2, eos=(5,), ignore_eos=True)
        assert draw(logits, seq) == [5]


class TestLogprobs:
    def test_own_and_best_before_temperature(self) -> None:
        logits = random_logits(3)
        seqs = [
            make_seq(temperature=2.0, logprobs=3),
            make_seq(temperature=2.0),
            make_seq(temperature=0.0, logprobs=0),
        ]
        tokens, found = sample(logits.clone(), seqs)
        assert found[1] is None
        for row, count in ((0, 3), (2, 0)):
            own = found[row]
            reference = logits[row].log_softmax(0)
            assert own is not None
            assert own.token == tokens[row]
            assert own.logprob == pytest.approx(float(reference[tokens[row]]), abs=1e-5)
            best = reference.topk(count)
            assert own.top == tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True))
            assert all(math.isfinite(value) for _, value in own.top)
