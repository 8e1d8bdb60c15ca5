"""Fetching a model from the Hugging Face hub, or saying quickly why not. No torch."""

from __future__ import annotations

import re
from pathlib import Path

from baton.protocol.errors import ConfigError

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_PATTERNS = (
    "config.json",
    "generation_config.json",
    "model*.safetensors",
    "model.safetensors.index.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
    "vocab.json",
    "merges.txt",
)
_TIMEOUT_S = 5.0
"""To the first answer of the hub; the download itself takes what it takes."""


def is_hub_id(spec: str) -> bool:
    return _HUB_ID.fullmatch(spec) is not None


def download(repo: str) -> Path:
    """The local snapshot of `repo`: brought up to date if the hub answers, else what the cache
    holds. Raises ConfigError if neither has it. HF_HUB_OFFLINE and HF_TOKEN are respected."""
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.errors import (  # type: ignore[attr-defined]
        GatedRepoError,
        HTTPError,  # of the HTTP client it is built on, which differs between versions
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    if constants.HF_HUB_OFFLINE:
        return _cached(repo, "HF_HUB_OFFLINE is set")
    try:
        info = HfApi().model_info(repo, timeout=_TIMEOUT_S)
    except GatedRepoError as error:
        raise ConfigError(
            f"{repo}: access is gated; accept its terms on the hub and set HF_TOKEN"
        ) from error
    except RepositoryNotFoundError as error:
        raise ConfigError(
            f"{repo}: no such file or directory, and the hub knows no such model "
            "(or it is private: set HF_TOKEN)"
        ) from error
    except OfflineModeIsEnabled:
        return _cached(repo, "the hub client is in offline mode")
    except (HTTPError, OSError) as error:
        return _cached(repo, f"the hub cannot be reached ({_first_line(error)})")
    files = [sibling.rfilename for sibling in info.siblings or []]
    if not any(re.fullmatch(r"model[^/]*\.safetensors", file) for file in files):
        ggufs = [file for file in files if file.endswith(".gguf")]
        hint = f"; it has {ggufs[0]}: download that and name the file" if ggufs else ""
        raise ConfigError(f"{repo}: holds no model*.safetensors{hint}")
    try:
        return Path(
            snapshot_download(
                repo,
                allow_patterns=list(_PATTERNS),
                etag_timeout=_TIMEOUT_S,
                max_workers=4,
            )
        )
    except (HTTPError, OSError) as error:
        raise ConfigError(f"{repo}: the download failed: {_first_line(error)}") from error


def _cached(repo: str, why: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repo, local_files_only=True, allow_patterns=list(_PATTERNS)))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{repo}: no such file or directory here, {why}, and the hub's local cache does not "
            "hold it; name a model directory or a .gguf file"
        ) from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
