"""KV that is sent by layers while its prompt is still computed, between two real workers: the same
tokens as with whole blocks, and nothing left. Nobody routes here, for it has to be split."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest

from baton.bench.worker_pair import ROLES, WorkerPair, worker

NUM_TOKENS = 24
OPTIONS = ("--dtype", "float32", "--max-batch-tokens", "72", "--threads", "1", "--kv-blocks", "96")


def prompts() -> list[list[int]]:
    """Up to three chunks each (72 tokens, of which whole blocks are 64), with and without a block
    that is not full; and the same again, much of them cached, with more behind."""
    plain = [
        [3 + (13 * i + 7 * place) % 200 for place in range(length)]
        for i, length in enumerate((5, 16, 64, 65, 100, 128, 190))
    ]
    return plain + [[*prompt, 9, 8, 7] for prompt in plain]


async def generate(model: Path, *options: str) -> tuple[list[list[int]], float]:
    """The outputs, and how many messages left before their step was over."""
    pair = WorkerPair()
    join = await pair.bind("127.0.0.1:0")
    with contextlib.ExitStack() as stack:
        for role in ROLES:
            stack.enter_context(worker(role, join, str(model), (*OPTIONS, *options)))
        await pair.until_joined()
        outputs = []
        for number, prompt in enumerate(prompts()):
            # The first one opens the session, and its seal says how to cut.
            answer = await pair.request(number, prompt, NUM_TOKENS, grant_first=number > 0)
            outputs.append(answer.tokens)
            await pair.until_clean()
        ended = "baton_handoff_phase_seconds{exposed}_count"
        await pair.until(lambda: pair.metric(ended) == len(outputs))
        early = pair.metric("baton_handoff_early_messages_total")
        assert not pair.metric("baton_kv_transfer_failures_total")
        await pair.close()
    return outputs, early


@pytest.fixture(scope="module")
def whole(tiny_model: Path) -> list[list[int]]:
    outputs, early = asyncio.run(generate(tiny_model, "--kv-layer-groups", "1"))
    assert not early
    return outputs


@pytest.mark.parametrize("checksums", [(), ("--kv-checksum",)], ids=["plain", "checksums"])
@pytest.mark.parametrize("groups", ["2", "100"])
def test_greedy_is_the_same_by_layers(
    tiny_model: Path, whole: list[list[int]], groups: str, checksums: tuple[str, ...]
) -> None:
    options = ("--kv-layer-groups", groups, *checksums)
    outputs, early = asyncio.run(generate(tiny_model, *options))
    assert outputs == whole
    assert early > len(whole), "layers left while the rest was computed"
