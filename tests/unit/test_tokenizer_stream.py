"""Text comes back piece by piece, whole characters only, and all of it."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_model import make_tiny_model
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers

from baton.engine.model.source import resolve_model
from baton.engine.tokenizer import Tokenizer, load_tokenizer
from baton.engine.tokenizer.settings import TokenizerSettings

NO_SETTINGS = TokenizerSettings({}, (), (), None, None)


@pytest.fixture(scope="module")
def embedded() -> Tokenizer:
    return load_tokenizer(resolve_model(None))


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    directory = make_tiny_model(tmp_path_factory.mktemp("stream") / "tiny")
    return load_tokenizer(resolve_model(str(directory)))


@pytest.fixture(scope="module")
def byte_fallback() -> Tokenizer:
    """Sentencepiece's way: U+2581 for spaces, bytes that have no token as <0xNN>."""
    words = ["<s>", "</s>", "\u2581", *"abcdefghijklmnopqrstuvwxyz", "\u2581a", "\u2581b", "ab"]
    vocab = {token: index for index, token in enumerate(words)}
    vocab |= {f"<0x{byte:02X}>": len(words) + byte for byte in range(256)}
    merges = [("\u2581", "a"), ("\u2581", "b"), ("a", "b")]
    backend = Backend(models.BPE(vocab, merges, byte_fallback=True, unk_token="<s>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    backend.add_special_tokens(["<s>", "</s>"])
    return Tokenizer(backend, NO_SETTINGS)


def stream(tokenizer: Tokenizer, ids: list[int], prompt: list[int] | None = None) -> list[str]:
    detokenizer = tokenizer.decode_stream(prompt or [])
    return [*(detokenizer.push([index]) for index in ids), detokenizer.finish()]


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=40))
def test_pieces_are_the_text(
    embedded: Tokenizer, byte_level: Tokenizer, byte_fallback: Tokenizer, text: str
) -> None:
    pieces = stream(byte_level, byte_level.encode(text))
    assert "".join(pieces) == text
    assert "\ufffd" in text or not any("\ufffd" in piece for piece in pieces)
    ids = embedded.encode(text)  # drops the bytes that its vocabulary does not have
    assert "".join(stream(embedded, ids)) == embedded.decode(ids)
    ids = byte_fallback.encode(text.replace("\u2581", ""))
    assert "".join(stream(byte_fallback, ids)) == byte_fallback.decode(ids)


def test_random_ids_give_what_decoding_them_at_once_gives(
    embedded: Tokenizer, byte_level: Tokenizer
) -> None:
    rng = random.Random(0)
    for tokenizer in (embedded, byte_level):
        for _ in range(200):
            ids = [rng.randrange(tokenizer.vocab_size) for _ in range(30)]
            assert "".join(stream(tokenizer, ids)) == tokenizer.decode(ids)


def test_a_character_waits_for_its_last_byte(byte_level: Tokenizer, embedded: Tokenizer) -> None:
    for tokenizer in (byte_level, embedded):
        ids = tokenizer.encode("🙂")
        assert len(ids) > 1
        pieces = stream(tokenizer, ids)
        assert pieces[-2:] == ["🙂", ""]
        assert set(pieces[:-2]) <= {""}


def test_bytes_that_become_no_character_show_at_the_end(byte_level: Tokenizer) -> None:
    ids = byte_level.encode("a🙂")[:-1]
    pieces = stream(byte_level, ids)
    assert "".join(pieces[:-1]) == "a"
    assert pieces[-1] == "\ufffd"


def test_several_ids_at_once(byte_level: Tokenizer, byte_fallback: Tokenizer) -> None:
    for tokenizer, text in ((byte_level, "Grüße 🙂 aus Köln"), (byte_fallback, "ab a b é🙂 ab")):
        ids = tokenizer.encode(text)
        detokenizer = tokenizer.decode_stream()
        half = len(ids) // 2
        text = detokenizer.push(ids[:half]) + detokenizer.push([]) + detokenizer.push(ids[half:])
        assert text + detokenizer.finish() == tokenizer.decode(ids)


def test_special_tokens_are_skipped_or_shown(byte_level: Tokenizer) -> None:
    ids = byte_level.encode("a<|im_end|>b")
    assert "".join(stream(byte_level, ids)) == "ab"
    shown = byte_level.decode_stream(skip_special_tokens=False)
    assert shown.push(ids) == "a<|im_end|>b"


def test_the_space_after_the_prompt_is_kept(byte_fallback: Tokenizer) -> None:
    prompt = byte_fallback.encode("ab")
    output = byte_fallback.encode("a")  # "\u2581a": the library strips its space at the start
    assert byte_fallback.decode(output) == "a"
    assert "".join(stream(byte_fallback, output, prompt)) == " a"


def test_a_prompt_that_ends_within_a_character(byte_level: Tokenizer) -> None:
    ids = byte_level.encode("🙂")
    assert "".join(stream(byte_level, ids[-1:], ids[:-1])) == "🙂"


def test_endless_broken_bytes_are_not_held_for_ever(byte_fallback: Tokenizer) -> None:
    broken = byte_fallback.token_id("<0xFF>")
    assert broken is not None
    pieces = stream(byte_fallback, [broken] * 20)
    assert sum(map(len, pieces[:-1])) >= 10


def test_ids_without_a_token(byte_level: Tokenizer, byte_fallback: Tokenizer) -> None:
    for tokenizer in (byte_level, byte_fallback):
        assert "".join(stream(tokenizer, [100_000, *tokenizer.encode("ab"), 100_001])) == "ab"


def test_byte_fallback_tokens_as_bytes(byte_fallback: Tokenizer, tmp_path: Path) -> None:
    index = byte_fallback.token_id("<0xC3>")
    assert index is not None
    assert byte_fallback.token_bytes(index) == b"\xc3"
    assert byte_fallback.token_text(index) == "\ufffd"
    space = byte_fallback.token_id("\u2581a")
    assert space is not None
    assert byte_fallback.token_text(space) == " a"
