"""All choices of one HTTP request, from submission to the end.

Life cycle: `start` submits every choice or none; `run` feeds their tokens through; `close` cancels
what has not finished and is called on every path, so a client that goes away leaves nothing
behind. The Generation owns its flights.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from baton.protocol.errors import BatonError
from baton.protocol.records import TokenDelta, TokenLogprobs
from baton.router.api.context import Api
from baton.router.api.plan import ChoicePlan
from baton.router.api.service import Flight
from baton.router.metrics import RequestTimer
from baton.router.text.logprobs import prompt_entries
from baton.router.text.output import OutputText, Piece


class Choice:
    """One choice: its flight, and its output so far."""

    def __init__(self, api: Api, index: int, plan: ChoicePlan, flight: Flight) -> None:
        self.index = index
        self.plan = plan
        self.flight = flight
        self.piece = Piece()
        """The whole output, where somebody adds it up."""
        self.cached_tokens = 0
        self.ended = False
        self.last_token_time: float | None = None
        self._tokenizer = api.tokenizer
        self._echo = plan.echo
        self._prompt_logprobs: list[TokenLogprobs | None] = []
        self._output = OutputText(
            api.tokenizer,
            prompt=plan.prompt.ids,
            stops=plan.stops,
            min_tokens=plan.request.sampling.min_tokens,
            logprobs=plan.request.sampling.logprobs is not None,
            offset=len(plan.echo or ""),
        )

    @property
    def num_tokens(self) -> int:
        """Output tokens to bill."""
        return 0 if self.plan.discard_output else self._output.num_tokens

    def feed(self, delta: TokenDelta) -> Piece:
        """What `delta` adds to the response. An echoed prompt comes with the first token."""
        if delta.cached_tokens is not None:
            self.cached_tokens = delta.cached_tokens
        if delta.prompt_logprobs is not None:
            self._prompt_logprobs += delta.prompt_logprobs
        billed = self._output.num_tokens
        piece = self._output.feed(delta)
        if self.plan.token_ids:
            piece.token_ids += delta.tokens[: self._output.num_tokens - billed]
        if self.plan.discard_output:
            piece = Piece(finish_reason=piece.finish_reason and "length")
        if self._echo is not None and (delta.tokens or delta.finish_reason):
            opening = Piece(self._echo)
            if self.plan.request.sampling.prompt_logprobs is not None:
                opening.entries = prompt_entries(
                    self._tokenizer, self.plan.prompt.ids, self._prompt_logprobs
                )
            opening.add(piece)
            piece, self._echo = opening, None
        if piece.finish_reason is not None:
            self.ended = True
            if delta.finish_reason is None:
                self.flight.finish_early()
        return piece


Consumer = Callable[[Choice, Piece], Awaitable[None]]


class Generation(AbstractContextManager["Generation"]):
    """Use as a context manager: leaving it closes it."""

    def __init__(self, api: Api, plans: Sequence[ChoicePlan], timer: RequestTimer) -> None:
        self._api = api
        self._plans = plans
        self._timer = timer
        self.choices: list[Choice] = []

    def start(self) -> None:
        """Submits all choices. Raises BatonError as `Service.submit` does; none is left then."""
        service = self._api.service
        if len(self._plans) > service.max_choices:
            raise BatonError(
                "invalid_value",
                f"{len(self._plans)} choices in one request; the most that this server queues is "
                f"{service.max_choices}: send fewer prompts, or a smaller n",
                param="prompt",
            )
        try:
            for index, plan in enumerate(self._plans):
                flight = service.submit(plan.request, session=plan.session)
                self.choices.append(Choice(self._api, index, plan, flight))
        except BatonError:
            self.close("another choice was refused")
            raise
        for prompt_len in self._prompt_lens():
            self._timer.prompt(prompt_len)

    async def run(self, consume: Consumer) -> None:
        """Gives every piece of every choice to `consume`, in order per choice. Raises BatonError
        when a choice fails; the others are given up then."""
        if len(self.choices) == 1:
            await self._run_choice(self.choices[0], consume)
            return
        try:
            async with asyncio.TaskGroup() as group:
                for choice in self.choices:
                    group.create_task(self._run_choice(choice, consume))
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from errors

    async def _run_choice(self, choice: Choice, consume: Consumer) -> None:
        async for delta in choice.flight.events():
            self._timer.tokens(choice, len(delta.tokens))
            piece = choice.feed(delta)
            await consume(choice, piece)
            if choice.ended:
                return
        raise BatonError("internal_error", "the tokens ended without a reason")

    def close(self, reason: str = "the client went away") -> None:
        """Cancels what has not ended. Idempotent."""
        for choice in self.choices:
            if not choice.ended:
                choice.ended = True
                choice.flight.cancel(reason)

    def __exit__(self, *exc_info: object) -> None:
        self._timer.finished(self.choices)
        self.close()

    def usage(self) -> dict[str, Any]:
        """OpenAI's `usage`. A prompt with several choices counts once."""
        prompt_tokens = sum(self._prompt_lens())
        completion_tokens = sum(choice.num_tokens for choice in self.choices)
        cached = sum(
            choice.cached_tokens for choice in self.choices if choice.plan.request.choice == 0
        )
        return {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
            "prompt_tokens_details": {"cached_tokens": cached},
        }

    def _prompt_lens(self) -> list[int]:
        return [len(plan.prompt.ids) for plan in self._plans if plan.request.choice == 0]
