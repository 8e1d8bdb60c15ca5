"""A `tokenizer.json` for models that come without one, made once and kept.

GGUF files and old-style vocabularies are converted by transformers, in a process of its own, so
that neither its imports nor the memory it takes stay in the caller. The result goes to
$XDG_CACHE_HOME/baton/tokenizers (or ~/.cache/baton/tokenizers) under a hash of what it was made
from. Life cycle of an entry: absent -> locked by one process, the others wait -> complete, by an
atomic rename; never changed afterwards. A lock dies with its process.
"""

from __future__ import annotations

import atexit
import fcntl
import hashlib
import importlib.metadata
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from baton.engine.model.gguf_file import GGUFFile
from baton.engine.model.source import ModelSource
from baton.protocol.errors import ConfigError

log = logging.getLogger(__name__)

_FORMAT = 1
"""Raised when the conversion changes, so that older results are not found."""

_VOCABULARY_FILES = (
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "config.json",
)
_TIMEOUT_S = 300.0


def tokenizer_json(source: ModelSource) -> Path:
    """The model's own tokenizer.json, or the converted one from the cache, made now if need be.

    Raises ConfigError if the model has no tokenizer or it cannot be converted.
    """
    own = source.path / "tokenizer.json"
    if not source.is_gguf and own.is_file():
        return own
    key = _content_key(source)
    folder = _cache_folder()
    target = folder / f"{key}.json"
    if target.is_file():
        return target
    with _locked(folder / f"{key}.lock"):
        if not target.is_file():
            _convert(source, target)
    return target


def _content_key(source: ModelSource) -> str:
    digest = hashlib.blake2b(digest_size=16)
    versions = [importlib.metadata.version(name) for name in ("transformers", "tokenizers")]
    digest.update(repr((_FORMAT, versions)).encode())
    if source.is_gguf:
        # All of the header: the vocabulary is most of it, and hashing it takes milliseconds.
        file = GGUFFile(source.path)
        digest.update(file.data[: file.data_offset].data)
        return digest.hexdigest()
    files = [path for name in _VOCABULARY_FILES if (path := source.path / name).is_file()]
    if not {"tokenizer.model", "vocab.json"} & {path.name for path in files}:
        raise ConfigError(f"{source.path}: holds no tokenizer (tokenizer.json, tokenizer.model)")
    for path in files:
        digest.update(f"{path.name} {path.stat().st_size}\n".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _cache_folder() -> Path:
    """Where results are kept; a private temporary folder where the cache cannot be written."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = root / "baton" / "tokenizers"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
        reason = "not writable"
    except OSError as error:
        reason = error.strerror or str(error)
    fallback = Path(tempfile.mkdtemp(prefix="baton-tokenizer-"))
    atexit.register(shutil.rmtree, fallback, ignore_errors=True)
    log.warning("%s: %s; the tokenizer is converted again at every start", folder, reason)
    return fallback


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _convert(source: ModelSource, target: Path) -> None:
    log.info("converting the tokenizer of %s (once)", source.name)
    handle, name = tempfile.mkstemp(dir=target.parent, suffix=".partial")
    os.close(handle)
    partial = Path(name)
    # -P: without it the working directory would come first on the module path.
    command = [sys.executable, "-P", "-m", "baton.engine.tokenizer.conversion"]
    try:
        done = subprocess.run(
            [*command, str(source.path), str(partial)],
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
        if done.returncode:
            lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            raise ConfigError(f"{source.path}: the tokenizer cannot be converted: {lines[-1]}")
        partial.replace(target)
    except subprocess.TimeoutExpired as error:
        raise ConfigError(
            f"{source.path}: converting the tokenizer took longer than {_TIMEOUT_S:.0f} s"
        ) from error
    finally:
        partial.unlink(missing_ok=True)
