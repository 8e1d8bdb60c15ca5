"""Whether a measurement is of the model that was asked for."""

from __future__ import annotations

from pathlib import Path

from baton.bench.planning.models import dtype_name
from baton.engine.model.fingerprint import fingerprint
from baton.engine.model.source import EMBEDDED_NAME, load_config, resolve_model
from baton.protocol.errors import ConfigError
from baton.protocol.profile import Profile


def check_profile(file: str, profile: Profile, model: str | None, dtype: str | None) -> None:
    """`model`, `dtype`: as they were asked for. Raises ConfigError that says what would be
    right."""
    if model is not None and not _is(profile, model):
        again = f"`baton profile {model} --out FILE` measures {model}"
        raise ConfigError(
            f"{file} was measured with {profile.model}, not {model}: leave --model out, or {again}"
        )
    if dtype is not None and dtype_name(dtype) != profile.dtype:
        raise ConfigError(
            f"{file} was measured in {profile.dtype}, not {dtype}: leave --dtype out, or profile "
            f"with --dtype {dtype}"
        )


def check_name(file: str, measured: str, model: str | None) -> None:
    """`measured`: the one of this file's models that was chosen. Raises ConfigError."""
    if model is not None and not same_name(measured, model):
        raise ConfigError(f"{file}:{measured} is of {measured}, not {model}: leave --model out, or "
                          f"name {file}:{model}")


def same_name(one: str, other: str) -> bool:
    """Whoever owns it."""
    return one.rpartition("/")[2].lower() == other.rpartition("/")[2].lower()


def starts_with(profile: Profile) -> tuple[str | None, bool]:
    """(what `baton up` is to be told so that it serves the model of a profile, whether that is
    known: of a directory only the name is)."""
    if profile.model == EMBEDDED_NAME:
        return None, True
    return (profile.model, True) if "/" in profile.model else (None, False)


def _is(profile: Profile, model: str) -> bool:
    """By name; or files of another name, by what is in them."""
    path = Path(model).expanduser()
    name = path.stem if path.suffix.lower() == ".gguf" else path.name
    if same_name(profile.model, name):
        return True
    if not path.exists():
        return False
    try:
        source = resolve_model(model)
        return fingerprint(source, load_config(source), profile.dtype) == profile.fingerprint
    except (ConfigError, OSError):
        return False
