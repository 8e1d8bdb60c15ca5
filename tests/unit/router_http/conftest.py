"""A scripted service behind the real HTTP application, and a small real tokenizer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
from tokenizers import Tokenizer as HubTokenizer
from tokenizers import decoders, models, pre_tokenizers, trainers

from baton.engine.tokenizer import Tokenizer
from baton.engine.tokenizer.settings import TokenizerSettings
from baton.protocol.errors import BatonError
from baton.protocol.records import ModelCard, Request, TokenDelta, TokenLogprobs
from baton.protocol.tokens import unpack_tokens
from baton.router.http import create_app, serve
from baton.router.lanes import Lanes
from baton.router.metrics import RouterMetrics
from baton.router.policy import Decision

CORPUS = [
    "The quick brown fox jumps over the lazy dog.",
    "Grüße aus Köln, naïve café. 你好世界 Привет мир. 🙂🚀",
    "one two three four five six seven eight nine ten",
] * 3
ROLES = ("system", "user", "assistant")


TEMPLATE = (
    "{% if messages[-1].role == 'system' %}"
    "{{ raise_exception('the last message must not be a system message') }}{% endif %}"
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def small_tokenizer() -> Tokenizer:
    """Byte-level BPE with an end token (id 0) and a chat template."""
    hub = HubTokenizer(models.BPE())
    hub.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    hub.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=360,
        special_tokens=["<|end|>", *(f"<|{role}|>" for role in ROLES)],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    hub.train_from_iterator(CORPUS, trainer)
    settings = TokenizerSettings(
        special_tokens={"eos_token": "<|end|>"},
        eos_token_ids=(0,),
        end_tokens=(),
        add_bos=False,
        chat_template=TEMPLATE,
    )
    return Tokenizer(hub, settings)


class FakeFlight:
    """Plays a script; remembers how it was ended."""

    def __init__(self, request: Request, play: Script) -> None:
        self.request = request
        self.decision: Decision | None = None
        self.cancelled: str | None = None
        self.finished_early = False
        self.session = ""
        self.ended = asyncio.Event()
        self._play = play
        self._position = 0

    async def events(self) -> AsyncIterator[TokenDelta]:
        async for step in self._play(self.request):
            yield self._delta(step)

    def _delta(self, step: dict[str, Any]) -> TokenDelta:
        tokens = tuple(step.get("tokens", ()))
        logprobs = None
        num_top = self.request.sampling.logprobs
        if num_top is not None:
            logprobs = tuple(fake_logprobs(token, num_top) for token in tokens)
        prompt_logprobs = None
        num_top = self.request.sampling.prompt_logprobs
        if num_top is not None and self._position == 0:
            prompt = unpack_tokens(self.request.prompt)
            prompt_logprobs = (None, *(fake_logprobs(token, num_top) for token in prompt[1:]))
        first = self._position == 0
        delta = TokenDelta(
            key=self.request.key,
            position=self._position,
            tokens=tokens,
            logprobs=logprobs,
            prompt_logprobs=prompt_logprobs,
            finish_reason=step.get("finish_reason"),
            cached_tokens=step.get("cached_tokens", 0) if first else None,
        )
        self._position += len(tokens)
        return delta

    def cancel(self, reason: str) -> None:
        self.cancelled = reason
        self.ended.set()

    def finish_early(self) -> None:
        self.finished_early = True
        self.ended.set()


def fake_logprobs(token: int, num_top: int) -> TokenLogprobs:
    """The token itself first, then its neighbours."""
    return TokenLogprobs(
        token, -0.5, tuple((max(0, token - i), -0.5 - i) for i in range(num_top))
    )


Script = Callable[[Request], AsyncIterator[dict[str, Any]]]


@dataclass(frozen=True)
class FakeView:
    worker_id: str
    role: str


class FakeService:
    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.ready = True
        self.max_choices = 512
        self.lanes = Lanes()
        self.model: ModelCard | None = ModelCard(
            fingerprint="fp-1",
            name="tiny",
            max_model_len=256,
            vocab_size=tokenizer.vocab_size,
            dtype="float32",
        )
        self.flights: list[FakeFlight] = []
        self.decision: Decision | None = None
        """Of every flight."""
        self.script: Script = self.says("one two three")
        self.refusal: BatonError | None = None
        self.refuse_from = 0
        """The first so many submissions are taken in spite of `refusal`."""
        self.drained = False

    def submit(self, request: Request, *, session: str = "") -> FakeFlight:
        if self.refusal is not None and len(self.flights) >= self.refuse_from:
            raise self.refusal
        flight = FakeFlight(request, self.script)
        flight.session = session
        flight.decision = self.decision
        self.flights.append(flight)
        return flight

    def worker_views(self) -> list[FakeView]:
        return [FakeView("worker-1", "prefill")] if self.ready else []

    def explain(self, response_id: str) -> list[FakeView]:
        if response_id != "cmpl-1/0":
            raise BatonError("not_found", f"nothing is known of {response_id!r}")
        return [FakeView("worker-1", "prefill")]

    def latest(self, limit: int) -> list[FakeView]:
        return [FakeView("worker-1", "prefill")] * limit

    def overview(self) -> FakeView:
        return FakeView("worker-1", "prefill")

    def drain(self, worker_id: str, *, undo: bool = False) -> FakeView:
        if worker_id != "worker-1":
            raise BatonError("not_found", f"no worker {worker_id!r} is here now")
        self.drained = not undo
        return FakeView(worker_id, "prefill")

    # -- scripts --------------------------------------------------------------------------

    def says(self, text: str, *, per_delta: int = 1) -> Script:
        """The text and then the end token, as far as max_tokens allows."""
        return self.plays(self.tokenizer.encode(text), per_delta=per_delta)

    def plays(self, ids: Iterable[int], *, per_delta: int = 1) -> Script:
        tokens = [*ids, 0]

        async def play(request: Request) -> AsyncIterator[dict[str, Any]]:
            limit = request.sampling.max_tokens
            allowed = tokens[:limit]
            for start in range(0, len(allowed), per_delta):
                part = allowed[start : start + per_delta]
                end = start + len(part) == len(allowed)
                reason = ("stop" if part[-1] == 0 else "length") if end else None
                yield {"tokens": part, "finish_reason": reason, "cached_tokens": 3}
                await asyncio.sleep(0)

        return play

    def fails_after(self, text: str, error: Exception) -> Script:
        """The text, and then the failure; with no text, the failure at once."""

        async def play(request: Request) -> AsyncIterator[dict[str, Any]]:
            for token in self.tokenizer.encode(text):
                yield {"tokens": [token]}
            raise error

        return play

    def hangs_after(self, text: str) -> Script:
        """The text, and then nothing for ever."""

        async def play(request: Request) -> AsyncIterator[dict[str, Any]]:
            for token in self.tokenizer.encode(text):
                yield {"tokens": [token]}
            await asyncio.Event().wait()

        return play


@dataclass
class Server:
    service: FakeService
    tokenizer: Tokenizer
    metrics: RouterMetrics
    port: int
    http: aiohttp.ClientSession

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def post(self, path: str, body: Any, **kwargs: Any) -> tuple[int, Any, Any]:
        """Status, JSON and headers."""
        key = "json" if not isinstance(body, (bytes, str)) else "data"
        async with self.http.post(self.url + path, **{key: body}, **kwargs) as response:
            return response.status, await response.json(), response.headers

    async def events(self, path: str, body: Any) -> list[str]:
        """The data of each event of a stream."""
        async with self.http.post(self.url + path, json=body) as response:
            assert response.status == 200, await response.text()
            assert response.content_type == "text/event-stream"
            text = (await response.read()).decode()
        parts = text.split("\n\n")
        assert parts.pop() == ""
        assert all(part.startswith("data: ") for part in parts)
        return [part.removeprefix("data: ") for part in parts]

    def sample(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return small_tokenizer()


@pytest.fixture
def service(tokenizer: Tokenizer) -> FakeService:
    return FakeService(tokenizer)


@pytest.fixture
def app_options() -> dict[str, Any]:
    """Override with `@pytest.mark.parametrize("app_options", [...])`."""
    return {}


@pytest.fixture
async def server(
    service: FakeService, tokenizer: Tokenizer, app_options: dict[str, Any]
) -> AsyncIterator[Server]:
    metrics = RouterMetrics()
    app = create_app(
        service, tokenizer, served_model_name="tiny", metrics=metrics, **app_options
    )
    runner, port = await serve(app, "127.0.0.1", 0, shutdown_timeout=0.2)
    async with aiohttp.ClientSession() as http:
        yield Server(service, tokenizer, metrics, port, http)
    await runner.cleanup()
