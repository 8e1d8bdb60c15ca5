"""A worker's first curve: made once with the real runner, then found."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_model import make_tiny_model

from baton.deploy.settings import ModelSettings, WorkerSettings
from baton.deploy.status import StatusWriter
from baton.deploy.worker import profiling
from baton.deploy.worker.build import load_model
from baton.deploy.worker.profiling import start_curve
from baton.engine.kv_memory import KVMemory
from baton.engine.runner import ModelRunner
from baton.engine.step_profile import Bounds, Samples
from baton.protocol.records import ModelCard

BOUNDS = Bounds(batch_tokens=96, running=8, context=128)
CARD = ModelCard(fingerprint="f", name="tiny", max_model_len=256, vocab_size=1, dtype="float32")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "baton" / "profiles"


@pytest.fixture
def runner(tmp_path: Path) -> ModelRunner:
    settings = WorkerSettings(
        worker_id="w", role="mixed", join=("tcp://127.0.0.1:1",), threads=1,
        model=ModelSettings(model=str(make_tiny_model(tmp_path / "tiny")), dtype="float32"),
    )
    loaded = load_model(settings, StatusWriter())
    return ModelRunner(loaded.model, KVMemory(loaded.model.kv_layout(16), 200, loaded.device))


def test_the_first_start_makes_a_profile_and_the_second_finds_it(
    cache: Path, runner: ModelRunner
) -> None:
    made = start_curve(runner, runner.memory, CARD, BOUNDS, 6000.0)
    assert made is not None
    assert made.steps == 11
    assert made.base > 0
    assert len(list(cache.iterdir())) == 1
    assert start_curve(runner, runner.memory, CARD, BOUNDS, 0) == made


def test_no_time_makes_no_profile(cache: Path, runner: ModelRunner) -> None:
    assert start_curve(runner, runner.memory, CARD, BOUNDS, 0) is None
    assert not cache.exists()


def test_a_profile_of_too_few_steps_is_used_and_not_kept(
    cache: Path, runner: ModelRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = profiling.self_profile

    def hurried(*arguments: object, **options: object) -> Samples:
        return whole(*arguments, **options)[:2]  # type: ignore[arg-type]

    monkeypatch.setattr(profiling, "self_profile", hurried)
    made = start_curve(runner, runner.memory, CARD, BOUNDS, 6000.0)
    assert made is not None
    assert made.steps == 2
    assert not cache.exists()
