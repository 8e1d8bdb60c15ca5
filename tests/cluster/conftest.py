"""Real clusters, shared by the tests of a module."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import PATIENT, Cluster
from tiny_model import make_tiny_model

TEST_SECONDS = 300
"""More than several waits of `cluster.DEADLINE`, so that the one that was in vain is named."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(TEST_SECONDS))


@pytest.fixture(scope="module", autouse=True)
def patient() -> Iterator[None]:
    """Processes that are started by other ways than `Cluster` take no silence for a death, either
    (`cluster.environment`)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", PATIENT)
        yield


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of 64 dimensions with a tokenizer and a chat template."""
    return make_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def split(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """The embedded model over one prefill and one decode worker, as a user starts it."""
    with Cluster() as cluster:
        yield cluster
