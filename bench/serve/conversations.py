"""What was said before. A turn's prompt holds the real answers of the turns before it.

An arrival's prompt is made of planned answers, which a real model does not give. Of each turn only
what is new is taken from it: what follows the prompt and the planned answer of the turn before. In
place of an answer's last token stands, as planned, what the next turn begins with; so prompts are
exactly as long as planned if answers are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from baton.bench.serve.seen import Seen
from baton.bench.workloads.arrival import Arrival, output_tokens
from baton.protocol.tokens import pack_tokens, unpack_tokens

Write = Callable[[bytes], str]
"""Packed tokens to text."""
Read = Callable[[Seen], None]
"""What was answered is in it afterwards."""


@dataclass(slots=True)
class Said:
    """A conversation up to a turn, without its answer."""

    turn: Arrival | None = None
    planned: bytes = b""
    """Its prompt as planned, packed."""
    ids: bytes = b""
    """What was really said, packed."""
    messages: list[dict[str, str]] = field(default_factory=list)


Before = tuple[Said, Seen]


@dataclass(slots=True)
class Turn:
    """One that is about to be sent, or was."""

    arrival: Arrival
    before: asyncio.Future[Before] | None
    """What is known when the turn before has ended."""
    after: asyncio.Future[Before] | None

    @property
    def ready(self) -> bool:
        return self.before is None or self.before.done()


class Conversations:
    """Prompts for arrivals, in their order. A turn that was begun must be ended, or the next one
    waits for ever."""

    def __init__(self, style: str, write: Write | None, read: Read) -> None:
        self._style, self._write, self._read = style, write, read
        self._last: dict[str, asyncio.Future[Before]] = {}

    def begin(self, arrival: Arrival) -> Turn:
        if not arrival.session:
            return Turn(arrival, None, None)
        before = self._last.get(arrival.session)
        after = self._last[arrival.session] = asyncio.get_running_loop().create_future()
        return Turn(arrival, before, after)

    async def prompt(self, turn: Turn) -> tuple[Any, int, Said]:
        """What to send, how many tokens it has as planned, and what is said with it. Waits for the
        turn before."""
        whole = turn.arrival.prompt()
        past, new = Said(), whole
        if turn.before is not None:
            said, seen = await turn.before
            assert said.turn is not None
            planned = said.planned + output_tokens(said.turn)
            if whole.startswith(planned):
                past, new = self._answered(said, said.turn, seen), whole[len(planned):]
        if self._style == "ids":
            said = Said(turn.arrival, whole, past.ids + new)
            return unpack_tokens(said.ids), len(said.ids) // 4, said
        assert self._write is not None
        message = {"role": "user", "content": self._write(new)}
        said = Said(turn.arrival, whole, messages=[*past.messages, message])
        if self._style == "chat":
            return said.messages, len(whole) // 4, said
        return "\n".join(m["content"] for m in said.messages), len(whole) // 4, said

    def ended(self, turn: Turn, said: Said | None, seen: Seen) -> None:
        """The next turn may come."""
        if turn.after is None or turn.after.done():
            return
        if said is None:
            turn.after.cancel()  # it was never sent: the run is over
        else:
            turn.after.set_result((said, seen))

    def _answered(self, said: Said, arrival: Arrival, seen: Seen) -> Said:
        """With what was really answered, if only in part. Where a server does not tell token ids,
        the planned answer stands for the real one."""
        self._read(seen)
        if self._style != "ids":
            answer = [{"role": "assistant", "content": seen.text}] if seen.text else []
            return replace(said, messages=[*said.messages, *answer])
        if seen.ids is not None:
            return replace(said, ids=said.ids + pack_tokens(seen.ids[: arrival.length - 1]))
        return replace(said, ids=said.ids + output_tokens(arrival)) if seen.served else said
