"""What was said before. A turn's prompt holds the real answers of the turns before it.

An arrival's prompt is made of planned answers, which a real model does not give. Of each turn only
what is new is taken from it: what follows the prompt and the planned answer of the turn before. In
place of an answer's last token stands, as planned, what the next turn begins with; so prompts are
exactly as long as planned if answers are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from baton.bench.serve.seen import Seen
from baton.bench.workloads.arrival import Arrival, output_tokens
from baton.protocol.tokens import pack_tokens, unpack_tokens

Write = Callable[[bytes], str]
"""Packed tokens to text."""


@dataclass(slots=True)
class Said:
    """A conversation up to a turn."""

    planned: bytes
    """Prompt of that turn and its planned answer, packed."""
    ids: bytes = b""
    """What was really said, packed."""
    messages: list[dict[str, str]] = field(default_factory=list)


@dataclass(slots=True)
class Turn:
    """One that is about to be sent, or was."""

    arrival: Arrival
    before: asyncio.Future[Said] | None
    """What is known when the turn before has ended."""
    after: asyncio.Future[Said] | None

    @property
    def ready(self) -> bool:
        return self.before is None or self.before.done()


class Conversations:
    """Prompts for arrivals, in their order. A turn that was begun must be ended, or the next one
    waits for ever."""

    def __init__(self, style: str, write: Write | None) -> None:
        self._style, self._write = style, write
        self._last: dict[str, asyncio.Future[Said]] = {}

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
        past = None if turn.before is None else await turn.before
        planned = whole if turn.after is None else whole + output_tokens(turn.arrival)
        if past is None or not whole.startswith(past.planned):
            past, new = Said(b""), whole
        else:
            new = whole[len(past.planned):]
        if self._style == "ids":
            said = Said(planned, past.ids + new)
            return unpack_tokens(said.ids), len(said.ids) // 4, said
        assert self._write is not None
        message = {"role": "user", "content": self._write(new)}
        said = Said(planned, messages=[*past.messages, message])
        if self._style == "chat":
            return said.messages, len(whole) // 4, said
        return "\n".join(m["content"] for m in said.messages), len(whole) // 4, said

    def ended(self, turn: Turn, said: Said | None, seen: Seen) -> None:
        """The next turn may come; it has what was really answered, if only in part. Where a server
        does not tell token ids, the planned answer stands for the real one."""
        if turn.after is None or turn.after.done():
            return
        if said is None:
            turn.after.cancel()  # it was never sent: the run is over
            return
        if self._style != "ids":
            if seen.text:
                said.messages = [*said.messages, {"role": "assistant", "content": seen.text}]
        elif seen.ids is not None:
            said.ids += pack_tokens(seen.ids[: turn.arrival.length - 1])
        elif seen.served:
            said.ids += output_tokens(turn.arrival)
        turn.after.set_result(said)
