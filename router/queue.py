"""Flights that wait for a worker, oldest first. One that comes back from a failed attempt takes
its old place, ahead of all that arrived later."""

from __future__ import annotations

from collections.abc import Iterator

from baton.router.flight import Flight


class WaitingQueue:
    def __init__(self) -> None:
        self._flights: dict[int, Flight] = {}
        """By number, in its order."""
        self._last = -1

    def __len__(self) -> int:
        return len(self._flights)

    def __contains__(self, flight: Flight) -> bool:
        return flight.number in self._flights

    def __iter__(self) -> Iterator[Flight]:
        """In order; what is removed or added meanwhile does not disturb it."""
        return iter(list(self._flights.values()))

    def add(self, flight: Flight) -> None:
        self._flights[flight.number] = flight
        if flight.number < self._last:
            self._flights = dict(sorted(self._flights.items()))
        else:
            self._last = flight.number

    def remove(self, flight: Flight) -> None:
        """Idempotent."""
        self._flights.pop(flight.number, None)
