"""Tokens to text: whole characters, nothing lost, entries beside their text."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from baton.protocol.ids import RequestKey
from baton.protocol.records import TokenDelta, TokenLogprobs
from baton.router.text.logprobs import completion_logprobs, prompt_entries, token_string
from baton.router.text.output import OutputText, Piece

KEY = RequestKey("cmpl-1/0", 0)


def delta(position: int, tokens: list[int], finish: str | None, *, logprobs: bool = False):
    entries = tuple(TokenLogprobs(token, -1.0, ()) for token in tokens) if logprobs else None
    return TokenDelta(
        key=KEY, position=position, tokens=tuple(tokens), logprobs=entries, finish_reason=finish
    )


def play(output: OutputText, tokens: list[int], cuts: list[int], finish: str, **kwargs):
    """Feeds `tokens` in pieces of the given sizes, then of one. Returns the pieces."""
    pieces: list[Piece] = []
    position = 0
    sizes = iter(cuts)
    while position < len(tokens):
        part = tokens[position : position + next(sizes, 1)]
        end = position + len(part) == len(tokens)
        pieces.append(output.feed(delta(position, part, finish if end else None, **kwargs)))
        position += len(part)
        if pieces[-1].finish_reason:
            break
    return pieces


def total(pieces: list[Piece]) -> Piece:
    whole = Piece()
    for piece in pieces:
        whole.add(piece)
    return whole


TEXT = st.text(
    st.sampled_from("abc the one\n🙂🚀é你世Пр") | st.characters(codec="utf-8"),
    max_size=40,
)
CUTS = st.lists(st.integers(1, 5), max_size=30)


@settings(max_examples=60, deadline=None)
@given(TEXT, CUTS)
def test_pieces_add_up_to_the_text_and_never_split_a_character(tokenizer, text, cuts):
    pieces = play(OutputText(tokenizer), tokenizer.encode(text), cuts, "length")
    assert total(pieces).text == text
    if "\ufffd" not in text:
        assert all("\ufffd" not in piece.text for piece in pieces)


@settings(max_examples=60, deadline=None)
@given(TEXT, CUTS, st.lists(st.text("abcn \n🙂é", min_size=1, max_size=4), min_size=1, max_size=3))
def test_stop_strings_across_tokens(tokenizer, text, cuts, stops):
    tokens = tokenizer.encode(text)
    output = OutputText(tokenizer, stops=stops)
    shown = total(play(output, tokens, cuts, "length"))
    ends = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
    if not ends:
        assert shown.text == text
        assert output.num_tokens == len(tokens)
        return
    end, start = min(ends)
    assert shown.text == text[:start]
    assert shown.finish_reason == "stop"
    # Billed: the tokens up to the one that completed the stop string, and no more.
    covering = next(
        n for n in range(1, len(tokens) + 1)
        if len(tokenizer.decode(tokens[:n]).rstrip("\ufffd")) >= end
    ) if "\ufffd" not in text else output.num_tokens
    assert output.num_tokens == covering


def test_end_token_is_billed_and_not_shown(tokenizer):
    output = OutputText(tokenizer)
    tokens = [*tokenizer.encode("one two"), tokenizer.encode("x")[0]]
    shown = total(play(output, tokens, [], "stop"))
    assert shown == Piece("one two", [], "stop")
    assert output.num_tokens == len(tokens)


def test_an_unfinished_character_at_the_end_is_told(tokenizer):
    tokens = [token for byte in "a🙂".encode()[:-1] for token in [_byte_token(tokenizer, byte)]]
    shown = total(play(OutputText(tokenizer), tokens, [], "length"))
    assert shown.text == tokenizer.decode(tokens)
    assert shown.text.startswith("a\ufffd")


def _byte_token(tokenizer, byte: int) -> int:
    return next(
        i for i in range(4, tokenizer.vocab_size) if tokenizer.token_bytes(i) == bytes([byte])
    )


def test_min_tokens_come_before_stop_strings(tokenizer):
    tokens = tokenizer.encode("one two one two")
    first = len(tokenizer.encode("one two"))
    output = OutputText(tokenizer, stops=["two"], min_tokens=first)
    assert total(play(output, tokens, [], "length")).text == "one two one "


def test_entries_travel_with_their_text(tokenizer):
    tokens = tokenizer.encode("one two three")
    output = OutputText(tokenizer, stops=["wo th"], logprobs=True, offset=10)
    pieces = play(output, tokens, [], "length", logprobs=True)
    shown = total(pieces)
    assert shown.text == "one t"
    offsets = [entry.offset for entry in shown.entries]
    assert offsets == sorted(offsets)
    assert all(offset < 10 + len("one t") for offset in offsets)
    covered = "".join(tokenizer.token_text(entry.token) for entry in shown.entries)
    assert covered.startswith("one t")


@pytest.mark.parametrize("finish", ["stop", "length"])
def test_all_entries_without_a_stop_string(tokenizer, finish):
    tokens = tokenizer.encode("naïve 🙂")
    shown = total(play(OutputText(tokenizer, logprobs=True), [*tokens, 0], [2], finish,
                       logprobs=True))
    expected = [*tokens, 0] if finish == "length" else tokens
    assert [entry.token for entry in shown.entries] == expected


def test_tokens_that_are_no_text_stay_different(tokenizer):
    strings = [token_string(tokenizer, i) for i in range(tokenizer.vocab_size)]
    assert len(set(strings)) == len(strings)


def test_prompt_entries(tokenizer):
    prompt = tokenizer.encode("naïve café")
    given_logprobs = [None, *(TokenLogprobs(token, -2.0, ((token, -2.0), (5, -float("inf"))))
                              for token in prompt[1:])]
    entries = prompt_entries(tokenizer, prompt, given_logprobs)
    shape = completion_logprobs(tokenizer, entries, 2)
    assert shape["token_logprobs"] == [None] + [-2.0] * (len(prompt) - 1)
    assert shape["top_logprobs"][0] is None
    assert -9999.0 in shape["top_logprobs"][1].values()
    assert shape["text_offset"][0] == 0
    assert shape["text_offset"] == sorted(shape["text_offset"])
