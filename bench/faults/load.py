"""Many streams at once, greedy, with the time of every token; and what the load will be."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import aiohttp

from baton.bench.faults.background import Background
from baton.engine.model.source import resolve_model
from baton.engine.tokenizer import load_tokenizer

REQUEST_SECONDS = 240.0

STORY = (
    "The old harbour was quiet in the early morning. Fishing boats came home one after another, "
    "and the women on the quay counted them as their mothers had done. When the last one had "
    "rounded the lighthouse, somebody began to sing. Nobody could say later who it had been. "
    "A letter lay on the table of the inn, addressed in a hand that no one in the village knew. "
    "It had been carried over two mountains and a lake, and the paper smelled of smoke. "
)


@dataclass(frozen=True, slots=True)
class Ask:
    """One request."""

    prompt: tuple[int, ...]
    max_tokens: int

    def body(self, salt: str) -> dict[str, Any]:
        """Requests of another salt find nothing of this one in a prefix cache."""
        return {
            "prompt": list(self.prompt), "max_tokens": self.max_tokens, "temperature": 0,
            "ignore_eos": True, "stream": True, "return_token_ids": True, "cache_salt": salt,
        }


@dataclass(slots=True)
class Seen:
    """What the client saw of one stream. Times in seconds on the monotonic clock."""

    sent: float = 0.0
    status: int = 0
    ids: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    """When each event with tokens arrived."""
    finish: str | None = None
    error: str | None = None
    """The code of a typed error, or what broke the connection."""
    typed: bool = False
    """The error came from the server, in its form."""
    done: bool = False
    ended: float = 0.0

    @property
    def complete(self) -> bool:
        return self.done and self.finish is not None and self.error is None

    @property
    def ttft(self) -> float:
        return (self.times[0] if self.times else self.ended) - self.sent

    @property
    def longest_gap(self) -> tuple[float, float]:
        """Seconds between two arrivals of tokens, and when it began."""
        gaps = [(b - a, a) for a, b in zip(self.times, self.times[1:], strict=False)]
        return max(gaps, default=(0.0, self.sent))


def random_asks(
    count: int, *, seed: int, vocabulary: int = 512, prompt: tuple[int, int] = (40, 200),
    output: tuple[int, int] = (120, 200),
) -> list[Ask]:
    """Prompts of random tokens, for a model that knows no language anyway."""
    rng = random.Random(seed)
    return [
        Ask(tuple(rng.randrange(5, vocabulary) for _ in range(rng.randint(*prompt))),
            rng.randint(*output))
        for _ in range(count)
    ]


def story_asks(
    model: str | None, count: int, *, seed: int, output: tuple[int, int] = (60, 90)
) -> list[Ask]:
    """Prompts of text, whose continuations have clear winners among the logits."""
    rng = random.Random(seed)
    tokenizer = load_tokenizer(resolve_model(model))
    sentences = STORY.split(". ")
    asks = []
    for number in range(count):
        rng.shuffle(sentences)
        text = f"Chapter {number + 1}. " + ". ".join(sentences[: rng.randint(2, 6)])
        asks.append(Ask(tuple(tokenizer.encode(text)), rng.randint(*output)))
    return asks


class Load:
    """Streams on a thread of their own, so that the caller can break things meanwhile."""

    def __init__(
        self,
        url: str,
        asks: Sequence[Ask],
        salt: str,
        concurrency: int | None = None,
        seconds: float = REQUEST_SECONDS,
    ) -> None:
        """`concurrency`: so many at a time, in order; None is all. `seconds`: for one request."""
        self.seen = [Seen() for _ in asks]
        self.started = self.finished = 0
        self._url, self._asks, self._salt, self._seconds = url, asks, salt, seconds
        self._gate = asyncio.Semaphore(concurrency or len(asks))
        self._background = Background(self._all, "load")

    def start(self) -> Load:
        self._background.start()
        return self

    @property
    def in_flight(self) -> int:
        """Streams that were sent and have not ended."""
        return self.started - self.finished

    @property
    def length(self) -> float:
        """Mean tokens of a stream in flight, prompt and output so far."""
        open_ones = [
            len(ask.prompt) + len(seen.ids)
            for ask, seen in zip(self._asks, self.seen, strict=True)
            if seen.sent and not seen.ended
        ]
        return sum(open_ones) / max(1, len(open_ones))

    @property
    def tokens(self) -> int:
        """Received so far, all streams together."""
        return sum(len(seen.ids) for seen in self.seen)

    def wait(self) -> list[Seen]:
        """Until the last stream has ended, which each does in time or with an error."""
        self._background.wait()
        return self.seen

    async def _all(self) -> None:
        async with client(self._seconds) as session:
            await asyncio.gather(*(
                self._one(session, ask, seen)
                for ask, seen in zip(self._asks, self.seen, strict=True)
            ))

    async def _one(self, session: aiohttp.ClientSession, ask: Ask, seen: Seen) -> None:
        async with self._gate:
            self.started += 1
            try:
                await stream(session, self._url, ask.body(self._salt), seen)
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                seen.error = f"{type(error).__name__}: {error}"
            finally:
                seen.ended = time.monotonic()
                self.finished += 1


def client(seconds: float) -> aiohttp.ClientSession:
    """No bound on connections; `seconds` for a whole request."""
    return aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=seconds), connector=aiohttp.TCPConnector(limit=0)
    )


async def stream(
    session: aiohttp.ClientSession, url: str, body: dict[str, Any], seen: Seen
) -> None:
    """Fill `seen` as the stream arrives. Raises what the connection raises."""
    seen.sent = time.monotonic()
    async with session.post(f"{url}/v1/completions", json=body) as reply:
        seen.status = reply.status
        if reply.status != 200:
            _typed_error(seen, await reply.json())
            return
        async for raw in reply.content:
            if not raw.startswith(b"data: "):
                continue
            if raw.startswith(b"data: [DONE]"):
                seen.done = True
                continue
            event = json.loads(raw[6:])
            if "error" in event:
                _typed_error(seen, event)
                continue
            choice = event["choices"][0]
            if ids := choice.get("token_ids"):
                seen.ids += ids
                seen.times.append(time.monotonic())
            seen.finish = choice["finish_reason"] or seen.finish


def run(
    url: str, asks: Sequence[Ask], salt: str, concurrency: int | None = None
) -> list[Seen]:
    """To the end."""
    return Load(url, asks, salt, concurrency).start().wait()


def one(url: str, ask: Ask, salt: str) -> Seen:
    (seen,) = run(url, [ask], salt)
    return seen


def prefill_rate(url: str, asks: Sequence[Ask], salt: str) -> float:
    """Prompt tokens per second of the whole cluster, when it has nothing else to do."""
    began = time.monotonic()
    run(url, [replace(ask, max_tokens=1) for ask in asks], salt)
    return sum(len(ask.prompt) for ask in asks) / (time.monotonic() - began)


def _typed_error(seen: Seen, answer: dict[str, Any]) -> None:
    error = answer.get("error")
    if isinstance(error, dict) and error.get("code"):
        seen.error, seen.typed = str(error["code"]), True
    else:
        seen.error = f"no error in OpenAI's form: {answer!r:.200}"
