"""What goes to one peer, in a fair order and a bounded amount at a time. Pure.

Hand-offs take turns, message by message, so that a long prompt delays the last block of another
by no more than what is in flight. Within a hand-off the order is that of `put`.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable
from typing import Generic, TypeVar

Message = TypeVar("Message")


class SendQueue(Generic[Message]):
    """At most `max_bytes` and `max_messages` in flight; one message, however large, always may
    be."""

    def __init__(self, max_bytes: int, max_messages: int) -> None:
        self.max_bytes = max_bytes
        self._max_messages = max_messages
        self._turns: OrderedDict[Hashable, deque[tuple[int, Message]]] = OrderedDict()
        self.waiting_messages = 0
        self.waiting_bytes = 0
        self.in_flight_messages = 0
        self.in_flight_bytes = 0

    def put(self, key: Hashable, num_bytes: int, message: Message) -> None:
        self._turns.setdefault(key, deque()).append((num_bytes, message))
        self.waiting_messages += 1
        self.waiting_bytes += num_bytes

    def take(self) -> Message | None:
        """The next message to post, which is in flight from now on; None when there is none, or
        no room."""
        if not self._turns:
            return None
        key = next(iter(self._turns))
        turn = self._turns[key]
        num_bytes, message = turn[0]
        if self.in_flight_messages and (
            self.in_flight_messages >= self._max_messages
            or self.in_flight_bytes + num_bytes > self.max_bytes
        ):
            return None
        turn.popleft()
        if turn:
            self._turns.move_to_end(key)
        else:
            del self._turns[key]
        self.waiting_messages -= 1
        self.waiting_bytes -= num_bytes
        self.in_flight_messages += 1
        self.in_flight_bytes += num_bytes
        return message

    def done(self, num_bytes: int) -> None:
        """A message that was taken is not in flight any more."""
        self.in_flight_messages -= 1
        self.in_flight_bytes -= num_bytes

    def clear(self) -> list[Message]:
        """Give up what waits, and return it."""
        given_up = [message for turn in self._turns.values() for _, message in turn]
        self._turns.clear()
        self.waiting_messages = self.waiting_bytes = 0
        return given_up
