"""`baton chat`: a conversation in the terminal with any OpenAI-compatible server.

On a terminal it keeps the history and streams each answer; otherwise standard input is one
question, and its answer is all that goes to standard output.
"""

from __future__ import annotations

import asyncio
import codecs
import json
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp
from rich.console import Console
from rich.markup import escape

from baton.protocol.errors import ConfigError
from baton.protocol.units import format_duration

_CONNECT_SECONDS = 10.0
_SILENCE_SECONDS = 180.0


@dataclass(frozen=True, slots=True)
class ChatSettings:
    url: str
    model: str | None
    system: str | None
    api_key: str | None
    max_tokens: int
    temperature: float | None


@dataclass(slots=True)
class Answer:
    """One answer as it comes. Times are seconds of `time.monotonic`."""

    asked: float
    text: str = ""
    first: float | None = None
    last: float = 0.0
    pieces: int = 0
    tokens: int | None = None
    """As the server counts them; without its count, `pieces` stands in."""
    finish_reason: str | None = None

    def summary(self) -> str:
        """`TTFT 52.1ms · 63.0 tokens/s · 118 tokens`."""
        if self.first is None:
            return "no answer"
        count = self.tokens if self.tokens is not None else self.pieces
        parts = [f"TTFT {format_duration(self.first - self.asked)}"]
        if count > 1 and self.last > self.first:
            parts.append(f"{(count - 1) / (self.last - self.first):.1f} tokens/s")
        parts.append(f"{count} tokens")
        if self.finish_reason == "length":
            parts.append("cut at --max-tokens")
        return " · ".join(parts)


class ServerError(Exception):
    """The server refused or broke off. The message is for the user."""


def run_chat(settings: ChatSettings) -> int:
    """Returns the exit status. Raises ConfigError when the server cannot be reached or refuses."""
    # The loop runs only while something is asked: typing blocks, and Ctrl-C then means typing.
    with asyncio.Runner() as runner:
        chat = _Chat(settings, runner)
        try:
            if sys.stdin.isatty():
                chat.converse()
            else:
                chat.ask_once(sys.stdin.read())
        except ServerError as error:
            raise ConfigError(str(error)) from error
        except (aiohttp.ClientConnectionError, TimeoutError) as error:
            raise ConfigError(
                f"no server at {settings.url} ({error or 'timed out'}): "
                "start one with `baton up`, or name it with --url"
            ) from error
    return 0


class _Chat:
    def __init__(self, settings: ChatSettings, runner: asyncio.Runner) -> None:
        self._settings = settings
        self._runner = runner
        self._base = settings.url.rstrip("/").removesuffix("/v1") + "/v1"
        self._model = settings.model or ""
        self._messages: list[dict[str, str]] = []
        if settings.system:
            self._messages.append({"role": "system", "content": settings.system})

    def _session(self) -> aiohttp.ClientSession:
        """One per exchange: minutes may pass between two."""
        key = self._settings.api_key
        return aiohttp.ClientSession(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=_CONNECT_SECONDS, sock_read=_SILENCE_SECONDS
            ),
        )

    def ask_once(self, question: str) -> None:
        if not question.strip():
            raise ConfigError("standard input held no question")
        self._choose_model()
        self._messages.append({"role": "user", "content": question.strip()})
        answer = Answer(time.monotonic())
        self._runner.run(self._show(answer))
        print()
        print(answer.summary(), file=sys.stderr)

    def converse(self) -> None:
        """Until Ctrl-D."""
        import readline  # noqa: F401  (line editing, and the history of what was typed)

        self._choose_model()
        console = Console(highlight=False)
        console.print(
            f"[bold]{escape(self._model)}[/] at {escape(self._settings.url)}. "
            "[dim]Ctrl-C stops an answer, Ctrl-D leaves.[/]"
        )
        while True:
            try:
                question = input("\n> ").strip()
            except EOFError:
                console.print()
                return
            except KeyboardInterrupt:
                console.print("[dim](Ctrl-D leaves)[/]")
                continue
            if question:
                self._exchange(console, question)

    def _choose_model(self) -> None:
        if not self._model:
            self._model = self._runner.run(self._first_model())

    def _exchange(self, console: Console, question: str) -> None:
        """One question and its answer, which Ctrl-C may end early."""
        self._messages.append({"role": "user", "content": question})
        answer = Answer(time.monotonic())
        note = ""
        try:
            self._runner.run(self._show(answer))
        except KeyboardInterrupt:
            note = " · stopped"
        except (ServerError, aiohttp.ClientError, TimeoutError) as error:
            console.print(f"\n[bold red]{escape(str(error) or type(error).__name__)}[/]")
        if answer.text:
            self._messages.append({"role": "assistant", "content": answer.text})
            console.print(f"\n[dim]{answer.summary()}{note}[/]")
        else:
            # A question that was not answered is no part of the conversation.
            self._messages.pop()

    async def _first_model(self) -> str:
        async with self._session() as session, session.get(f"{self._base}/models") as response:
            if response.status != 200:
                raise ServerError(await _refusal(response))
            models = (await response.json()).get("data") or []
        if not models:
            raise ServerError(f"{self._settings.url} serves no model yet")
        return str(models[0]["id"])

    async def _show(self, answer: Answer) -> None:
        async with self._session() as session:
            async for piece in self._stream(session, answer):
                sys.stdout.write(piece)
                sys.stdout.flush()

    async def _stream(self, session: aiohttp.ClientSession, answer: Answer) -> AsyncIterator[str]:
        """Pieces of text; `answer` holds the rest. Raises ServerError."""
        body: dict[str, Any] = {
            "model": self._model,
            "messages": self._messages,
            "max_tokens": self._settings.max_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if self._settings.temperature is not None:
            body["temperature"] = self._settings.temperature
        async with session.post(f"{self._base}/chat/completions", json=body) as response:
            if response.status != 200:
                raise ServerError(await _refusal(response))
            async for data in _events(response.content):
                if data == "[DONE]":
                    return
                event = json.loads(data)
                if "error" in event:
                    raise ServerError(_message(event))
                if usage := event.get("usage"):
                    answer.tokens = usage.get("completion_tokens")
                for choice in event.get("choices") or []:
                    answer.finish_reason = choice.get("finish_reason") or answer.finish_reason
                    piece = (choice.get("delta") or {}).get("content")
                    if piece:
                        answer.last = time.monotonic()
                        answer.first = answer.first or answer.last
                        answer.pieces += 1
                        answer.text += piece
                        yield piece
        raise ServerError("the server broke the answer off")


async def _events(content: aiohttp.StreamReader) -> AsyncIterator[str]:
    """The data of server-sent events, whatever the pieces they come in."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    rest = ""
    async for chunk in content.iter_any():
        rest += decoder.decode(chunk)
        *lines, rest = rest.split("\n")
        for line in lines:
            if line.startswith("data:"):
                yield line[5:].strip()


async def _refusal(response: aiohttp.ClientResponse) -> str:
    text = await response.text()
    try:
        return f"{response.status}: {_message(json.loads(text))}"
    except ValueError:
        return f"{response.status}: {text.strip()[:200] or response.reason}"


def _message(body: Any) -> str:
    error = body.get("error") if isinstance(body, dict) else None
    if isinstance(error, dict):
        return str(error.get("message") or error)
    return str(error or body)
