"""Requests of every kind that a client can make, and all that it gets for each.

A stream and a whole response give the same `Answer`, so runs compare whatever their form. Requests
of another salt find nothing of this one in a prefix cache.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from baton.bench.faults.background import Background

NEAR = 2e-3
"""Log-probabilities in float32 from batches of other sizes differ by less."""

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"


@dataclass(frozen=True, slots=True)
class Kind:
    path: str
    options: dict[str, Any]


KINDS = {
    "stream": Kind(COMPLETIONS, {"stream": True}),
    "whole": Kind(COMPLETIONS, {}),
    "choices": Kind(COMPLETIONS, {"stream": True, "n": 2}),
    # Each choice has draws of its own, which do not depend on who makes them. Among few tokens: in
    # a flat distribution over all, some draw would fall on an edge that rounding moves.
    "whole drawn choices": Kind(COMPLETIONS, {"n": 3, "temperature": 1.0, "top_k": 4, "seed": 7}),
    "log-probabilities": Kind(COMPLETIONS, {"stream": True, "logprobs": 3}),
    "whole log-probabilities": Kind(COMPLETIONS, {"logprobs": 2, "n": 2}),
    "echo": Kind(COMPLETIONS, {"stream": True, "logprobs": 1, "echo": True}),
    "chat": Kind(CHAT, {"stream": True, "logprobs": True, "top_logprobs": 2, "n": 2}),
}


@dataclass(frozen=True, slots=True)
class Call:
    kind: str
    prompt: tuple[int, ...]
    max_tokens: int

    def body(self, salt: str) -> dict[str, Any]:
        kind = KINDS[self.kind]
        if kind.path == CHAT:
            text = " ".join(str(token) for token in self.prompt[:30])
            prompt: dict[str, Any] = {"messages": [{"role": "user", "content": text}]}
        else:
            prompt = {"prompt": list(self.prompt)}
        return {
            **prompt, "max_tokens": self.max_tokens, "temperature": 0, "ignore_eos": True,
            "return_token_ids": True, "cache_salt": salt, **kind.options,
        }


@dataclass(slots=True)
class Choice:
    ids: list[int] = field(default_factory=list)
    text: str = ""
    tokens: list[str] = field(default_factory=list)
    """Of the log-probabilities."""
    logprobs: list[float | None] = field(default_factory=list)
    finish: str | None = None

    def add(self, part: dict[str, Any]) -> None:
        """A choice of a whole response, or of one event of a stream."""
        self.ids += part.get("token_ids") or []
        message = part.get("delta") or part.get("message") or {}
        self.text += part.get("text") or message.get("content") or ""
        self.finish = part["finish_reason"] or self.finish
        found = part.get("logprobs") or {}
        self.tokens += found.get("tokens") or []
        self.logprobs += found.get("token_logprobs") or []
        for entry in found.get("content") or []:
            self.tokens.append(entry["token"])
            self.logprobs.append(entry["logprob"])


@dataclass(slots=True)
class Answer:
    choices: dict[int, Choice] = field(default_factory=dict)
    error: str | None = None
    done: bool = False
    sent: bool = False
    ended: bool = False

    @property
    def tokens(self) -> int:
        return sum(len(choice.ids) for choice in self.choices.values())

    def add(self, event: dict[str, Any]) -> None:
        if "error" in event:
            self.error = str(event["error"])
            return
        for part in event["choices"]:
            self.choices.setdefault(part["index"], Choice()).add(part)


def calls_of_all_kinds(each: int, seed: int, output: tuple[int, int]) -> list[Call]:
    """Their prompts are random tokens, for a model that knows no language anyway."""
    rng = random.Random(seed)
    return [
        Call(kind, tuple(rng.randrange(5, 512) for _ in range(rng.randint(20, 120))),
             rng.randint(*output))
        for _ in range(each)
        for kind in KINDS
    ]


class Calls:
    """Made all at once, on a thread of their own, so that the caller can break things meanwhile."""

    def __init__(self, url: str, calls: Sequence[Call], salt: str, concurrency: int = 0) -> None:
        """`concurrency`: so many at a time, in order; 0 is all."""
        self.answers = [Answer() for _ in calls]
        self._url, self._calls, self._salt = url, calls, salt
        self._gate = asyncio.Semaphore(concurrency or len(calls))
        self._background = Background(self._all, "calls")
        self._background.start()

    @property
    def streamed(self) -> int:
        """Tokens received so far. Those of whole responses come at their end."""
        return sum(answer.tokens for answer in self.answers)

    @property
    def in_flight(self) -> int:
        return sum(answer.sent and not answer.ended for answer in self.answers)

    @property
    def left(self) -> int:
        """Of which the client does not have all yet."""
        return sum(not answer.ended for answer in self.answers)

    def wait(self) -> list[Answer]:
        self._background.wait()
        return self.answers

    async def _all(self) -> None:
        timeout = aiohttp.ClientTimeout(total=100)
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
            await asyncio.gather(*(
                self._one(session, call, answer)
                for call, answer in zip(self._calls, self.answers, strict=True)
            ))

    async def _one(self, session: aiohttp.ClientSession, call: Call, answer: Answer) -> None:
        async with self._gate:
            answer.sent = True
            try:
                await ask(session, self._url, call, self._salt, answer)
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                answer.error = f"{type(error).__name__}: {error}"
            answer.ended = True


async def ask(
    session: aiohttp.ClientSession, url: str, call: Call, salt: str, answer: Answer
) -> None:
    """Fill `answer` as it arrives. Raises what the connection raises."""
    body = call.body(salt)
    async with session.post(url + KINDS[call.kind].path, json=body) as reply:
        if not body.get("stream") or reply.status != 200:
            answer.add(await reply.json())
            answer.done = True
            return
        async for line in reply.content:
            if line.startswith(b"data: [DONE]"):
                answer.done = True
            elif line.startswith(b"data: "):
                answer.add(json.loads(line[6:]))


def assert_complete(calls: Sequence[Call], answers: Sequence[Answer]) -> None:
    """No error, the right number of choices, of tokens and of log-probabilities."""
    for call, answer in zip(calls, answers, strict=True):
        options = KINDS[call.kind].options
        assert (answer.error, answer.done) == (None, True), call.kind
        assert sorted(answer.choices) == list(range(options.get("n", 1))), call.kind
        for choice in answer.choices.values():
            assert (len(choice.ids), choice.finish) == (call.max_tokens, "length"), call.kind
            if "logprobs" in options:
                echoed = len(call.prompt) if options.get("echo") else 0
                assert len(choice.logprobs) == len(choice.tokens) == echoed + call.max_tokens


def assert_same(calls: Sequence[Call], got: Sequence[Answer], expected: Sequence[Answer]) -> None:
    """What was disturbed gave what was not: tokens, text, and log-probabilities at each position,
    none repeated and none lost."""
    assert_complete(calls, got)
    for call, one, other in zip(calls, got, expected, strict=True):
        for index, choice in one.choices.items():
            wanted = other.choices[index]
            assert choice.ids == wanted.ids, (
                f"choice {index} of {call.kind}: other tokens from "
                f"{_first_difference(choice.ids, wanted.ids)} on"
            )
            assert choice.text == wanted.text, f"other text: {call.kind}"
            assert choice.tokens == wanted.tokens, f"other positions: {call.kind}"
            for mine, theirs in zip(choice.logprobs, wanted.logprobs, strict=True):
                assert (mine is None) == (theirs is None), call.kind
                assert abs((mine or 0.0) - (theirs or 0.0)) < NEAR, call.kind


def _first_difference(got: list[int], wanted: list[int]) -> int:
    pairs = enumerate(zip(got, wanted, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(got), len(wanted)))
