"""Stop strings: what is shown is the same however the text was cut."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from baton.router.text.stops import StopMatcher


def reference(text: str, stops: list[str]) -> tuple[str, str | None]:
    """On the whole text: the stop string that is complete first ends it."""
    found = [(text.find(stop) + len(stop), text.find(stop), stop)
             for stop in stops if stop in text]
    if not found:
        return text, None
    _, start, stop = min(found)
    return text[:start], stop


def run(pieces: list[str], stops: list[str]) -> tuple[str, str | None]:
    matcher = StopMatcher(stops)
    shown = ""
    for piece in pieces:
        shown += matcher.feed(piece)
        if matcher.matched is not None:
            return shown, matcher.matched
    return shown + matcher.flush(), None


@given(
    st.lists(st.text("ab\n", max_size=4), max_size=30),
    st.lists(st.text("ab\n", min_size=1, max_size=5), min_size=1, max_size=4),
)
def test_same_as_searching_the_whole_text(pieces, stops):
    shown, matched = run(pieces, stops)
    expected, expected_match = reference("".join(pieces), stops)
    assert shown == expected
    assert matched == expected_match


@given(
    st.lists(st.text("ab", max_size=3), max_size=20),
    st.lists(st.text("ab", min_size=1, max_size=5), min_size=1, max_size=4),
)
def test_nothing_more_than_needed_is_held_back(pieces, stops):
    matcher = StopMatcher(stops)
    fed = shown = ""
    for piece in pieces:
        fed += piece
        shown += matcher.feed(piece)
        if matcher.matched is not None:
            return
        held = fed[len(shown):]
        assert fed.startswith(shown)
        # What is held back begins a stop string, and no longer tail of the text does.
        assert held == "" or any(stop.startswith(held) for stop in stops)
        for start in range(len(shown)):
            assert not any(stop.startswith(fed[start:]) for stop in stops)


def test_a_false_alarm_is_released():
    matcher = StopMatcher(["END"])
    assert matcher.feed("the E") == "the "
    assert matcher.feed("N") == ""
    assert matcher.feed("Es") == "ENEs"
    assert matcher.feed("E") == ""
    assert matcher.flush() == "E"
