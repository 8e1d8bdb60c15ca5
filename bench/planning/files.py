"""Files that people named."""

from __future__ import annotations

from pathlib import Path

from baton.protocol.errors import ConfigError


def write_file(path: Path, data: bytes) -> None:
    """Its folder is made where it is missing. Raises ConfigError, one line."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from error
