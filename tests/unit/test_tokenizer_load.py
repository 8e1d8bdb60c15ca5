"""Tokenizers of real and tiny models: known ids, round trips, converted once, torch-free."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_model import make_tiny_model
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, processors

from baton.engine.model.source import resolve_model
from baton.engine.tokenizer import Tokenizer, load_tokenizer
from baton.engine.tokenizer.convert import tokenizer_json
from baton.engine.tokenizer.settings import TokenizerSettings
from baton.engine.tokenizer.tokenizer import LONG_TEXT
from baton.protocol.errors import ConfigError

TEXTS = [
    "The capital of France is",
    "In 2024, 12345 runners ran 3.14 km.",
    "def main(x):\n    return [v for v in x]\n",
    "Grüße aus Köln: naïve café 日本語の文章 🙂🚀👩‍👩‍👧‍👦",
    "  leading and trailing   ",
    "",
]


@pytest.fixture(scope="module")
def embedded() -> Tokenizer:
    return load_tokenizer(resolve_model(None))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    directory = make_tiny_model(tmp_path_factory.mktemp("tokenizer") / "tiny")
    return load_tokenizer(resolve_model(str(directory)))


def test_known_ids_of_the_embedded_model(embedded: Tokenizer) -> None:
    assert embedded.encode("The capital of France is") == [504, 3575, 282, 4649, 314]
    assert embedded.vocab_size == 49152
    assert embedded.token_id("<|endoftext|>") == 0
    assert embedded.encode("<|im_start|>user<|im_end|>") == [1, embedded.token_id("user"), 2]
    assert embedded.eos_token_ids == (2,)


def test_digits_are_split_one_by_one(embedded: Tokenizer) -> None:
    pieces = [embedded.token_text(index) for index in embedded.encode("year 20245")]
    assert pieces == ["year", " ", "2", "0", "2", "4", "5"]


@pytest.mark.parametrize("text", TEXTS)
def test_round_trips(embedded: Tokenizer, tiny: Tokenizer, text: str) -> None:
    for tokenizer in (embedded, tiny):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert b"".join(map(tokenizer.token_bytes, ids)).decode() == text
    assert embedded.encode_batch([text, text]) == [embedded.encode(text)] * 2


def test_long_texts_are_encoded_the_same_way(embedded: Tokenizer, tiny: Tokenizer) -> None:
    text = "Grüße aus Köln 2024, und mehr.\n" * 2000
    for tokenizer in (embedded, tiny):
        expected = tokenizer._backend.encode(text).ids
        assert tokenizer.encode(text) == expected


async def test_megabytes_in_a_thread_stop_no_event_loop(tiny: Tokenizer) -> None:
    text = "x " * 300_000
    await asyncio.to_thread(tiny.encode, "x " * LONG_TEXT)  # the pool of threads is there
    turns = 0
    encoding = asyncio.create_task(asyncio.to_thread(tiny.encode, text))
    while not encoding.done():
        await asyncio.sleep(0.001)
        turns += 1
    assert len(encoding.result()) == 600_000
    # Hundreds where it is not held; where it is, those before the thread began and after its end.
    assert turns > 20, "the interpreter's lock was held"


def test_a_directory_gives_what_transformers_gives(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    directory = make_tiny_model(tmp_path / "tiny")
    theirs = AutoTokenizer.from_pretrained(directory)
    ours = load_tokenizer(resolve_model(str(directory)))
    for text in TEXTS:
        assert ours.encode(text) == theirs(text)["input_ids"]
    assert ours.eos_token_ids == (2, 0)
    assert ours.special_tokens == {"bos_token": "<|endoftext|>", "eos_token": "<|im_end|>"}


def test_special_tokens_are_named_but_not_text(tiny: Tokenizer) -> None:
    ids = tiny.encode("<|im_start|>a<|im_end|>")
    assert (ids[0], ids[-1]) == (1, 2)
    assert tiny.decode(ids) == "a"
    assert tiny.decode(ids, skip_special_tokens=False) == "<|im_start|>a<|im_end|>"
    assert tiny.token_bytes(1) == b"<|im_start|>"


def test_ids_without_a_token_are_empty(tiny: Tokenizer) -> None:
    assert tiny.token_bytes(100_000) == b""
    assert tiny.token_text(-1) == ""


def test_nothing_imports_torch_or_transformers() -> None:
    code = (
        "import sys; from baton.engine.model.source import resolve_model; "
        "from baton.engine.tokenizer import load_tokenizer; "
        "tokenizer = load_tokenizer(resolve_model(None)); "
        "tokenizer.encode_chat([{'role': 'user', 'content': 'x'}]); "
        "sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-P", "-c", code], check=False).returncode == 0


def test_conversion_happens_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    source = resolve_model(None)
    code = (
        "from baton.engine.model.source import resolve_model; "
        "from baton.engine.tokenizer import load_tokenizer; "
        "print(load_tokenizer(resolve_model(None)).encode('The capital'))"
    )
    command = [sys.executable, "-P", "-c", code]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = {process.communicate(timeout=100)[0] for process in processes}
    assert outputs == {"[504, 3575]\n"}
    folder = tmp_path / "baton" / "tokenizers"
    kept = list(folder.glob("*.json"))
    assert len(kept) == 1
    assert not list(folder.glob("*.partial"))
    assert tokenizer_json(source) == kept[0]
    written = kept[0].stat().st_mtime_ns
    load_tokenizer(source)
    assert kept[0].stat().st_mtime_ns == written


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    code = (
        "from baton.engine.model.source import resolve_model; "
        "from baton.engine.tokenizer import load_tokenizer; "
        "print(load_tokenizer(resolve_model(None)).encode('The capital'))"
    )
    command = [sys.executable, "-P", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True)
    assert done.stdout == "[504, 3575]\n"
    assert list(temporary.iterdir()) == []


def test_a_directory_without_tokenizer_json_is_converted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    directory = make_tiny_model(tmp_path / "tiny", architecture="Qwen2ForCausalLM")
    expected = load_tokenizer(resolve_model(str(directory))).encode("The capital of France")
    model = json.loads((directory / "tokenizer.json").read_text())["model"]
    (directory / "tokenizer.json").unlink()
    (directory / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = "\n".join(" ".join(pair) for pair in model["merges"])
    (directory / "merges.txt").write_text(f"#version: 0.2\n{merges}\n")
    settings = json.loads((directory / "tokenizer_config.json").read_text())
    settings["tokenizer_class"] = "Qwen2Tokenizer"
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = load_tokenizer(resolve_model(str(directory)))
    assert tokenizer.encode("The capital of France") == expected


def test_no_tokenizer_and_a_damaged_one(tmp_path: Path) -> None:
    directory = make_tiny_model(tmp_path / "tiny")
    (directory / "tokenizer.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"tokenizer\.json: not a readable tokenizer"):
        load_tokenizer(resolve_model(str(directory)))
    (directory / "tokenizer.json").unlink()
    with pytest.raises(ConfigError, match="holds no tokenizer"):
        load_tokenizer(resolve_model(str(directory)))


def _settings(**changes: object) -> TokenizerSettings:
    values = {
        "special_tokens": {"bos_token": "<s>"},
        "eos_token_ids": (1,),
        "end_tokens": ("</s>",),
        "add_bos": None,
        "chat_template": None,
    }
    return TokenizerSettings(**(values | changes))  # type: ignore[arg-type]


def _word_backend() -> Backend:
    backend = Backend(models.WordLevel({"<s>": 0, "</s>": 1, "a": 2, "b": 3}, unk_token="a"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.decoder = decoders.WordPiece()
    backend.add_special_tokens(["<s>", "</s>"])
    return backend


def test_bos_is_added_where_the_settings_ask_for_it() -> None:
    assert Tokenizer(_word_backend(), _settings()).encode("a b") == [2, 3]
    asked = Tokenizer(_word_backend(), _settings(add_bos=True))
    assert asked.encode("a b") == [0, 2, 3]
    assert asked.encode("a b", add_special_tokens=False) == [2, 3]
    adds_itself = _word_backend()
    adds_itself.post_processor = processors.TemplateProcessing(
        single=["<s>", "$A", "</s>"], special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    assert Tokenizer(adds_itself, _settings(add_bos=True)).encode("a") == [0, 2, 1]
