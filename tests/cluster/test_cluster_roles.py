"""Roles change under load: by hand and by the controller, and no client notices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cluster import ATTEMPTS, Cluster, lines_of, wait_for
from tiny_model import make_tiny_model

from baton.bench.faults.load import Load, Seen, random_asks

STREAMS = 12
TOKENS = 1500
ASKS = random_asks(STREAMS, seed=3, prompt=(20, 120), output=(TOKENS, TOKENS))
LATER = random_asks(STREAMS, seed=4, prompt=(20, 120), output=(40, 40))


@pytest.fixture(scope="module")
def long_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("model") / "tiny", max_position=2048)


def roles(cluster: Cluster) -> dict[str, str]:
    return {worker["id"]: worker["role"] for worker in cluster.workers()}


def outputs(seen: list[Seen]) -> list[list[int]]:
    for one in seen:
        assert (one.error, one.finish, one.done) == (None, "length", True)
    return [one.ids for one in seen]


def change(cluster: Cluster, wanted: dict[str, str]) -> None:
    for worker, kind in wanted.items():
        cluster.post(f"/admin/workers/{worker}/role", {"role": kind})
    wait_for(lambda: roles(cluster) == wanted, "the new roles")


def role(cluster: Cluster, worker: str, wanted: str) -> str:
    code, said = lines_of(["role", worker, wanted, "--url", cluster.url])
    assert code == 0, said
    return said


def test_roles_change_by_hand_under_load(long_model: Path) -> None:
    """All three roles, on workers that are in the middle of something: the answers in float32 are
    those of an undisturbed run, nothing is tried again, nothing moves, nothing is left."""
    with Cluster("--prefill", "1", "--decode", "2", "--dtype", "float32", model=long_model) as c:
        expected = outputs(Load(c.url, ASKS, "undisturbed").start().wait())
        expected_later = outputs(Load(c.url, LATER, "undisturbed").start().wait())
        reader = next(name for name, kind in roles(c).items() if kind == "prefill")
        first, second = (name for name, kind in roles(c).items() if kind == "decode")
        before, wanted = roles(c), {first: "prefill", reader: "decode", second: "mixed"}
        for attempt in range(ATTEMPTS):
            changes = c.metric_sum("baton_role_changes_total")
            load = Load(c.url, ASKS, f"changed {attempt}").start()
            wait_for(lambda it=load: min(len(seen.ids) for seen in it.seen) >= 10, "10 of each")
            change(c, wanted)
            if load.in_flight == STREAMS:
                break
            assert outputs(load.wait()) == expected  # too late: streams had ended
            change(c, before)
        else:
            pytest.fail("too late each time: streams had ended")
        # New requests go by the new roles, while the old ones end where they are.
        assert outputs(Load(c.url, LATER, "changed").start().wait()) == expected_later
        assert outputs(load.wait()) == expected
        assert roles(c) == wanted
        assert c.metric_sum("baton_retries_total") == 0
        assert c.metric_sum("baton_migrations_total") == 0
        wait_for(lambda: c.metric_sum("baton_role_changes_total") == changes + 3, "three changes")
        pinned = {view["id"]: view["pinned"] for view in c.get("/admin/sizing")["workers"]}
        assert pinned == {first: True, reader: True, second: True}
        assert role(c, first, "decode") == f"{first}: prefill -> decode\n"
        assert "until the controller" in role(c, first, "auto")
        code, said = lines_of(["role", first, "boss", "--url", c.url])
        assert code == 1
        assert "role must be one of" in said
        code, said = lines_of(["role", "nobody", "mixed", "--url", c.url])
        assert code == 1
        assert "no worker 'nobody'" in said


def decision(cluster: Cluster) -> dict[str, Any] | None:
    last: dict[str, Any] | None = cluster.get("/admin/sizing")["last"]
    return last


def test_without_targets_sizing_only_says_what_it_would_do(long_model: Path) -> None:
    with Cluster("--prefill", "1", "--decode", "1", model=long_model) as cluster:
        before = roles(cluster)
        outputs(Load(cluster.url, LATER, "a").start().wait())
        outputs(Load(cluster.url, LATER, "b").start().wait())
        wait_for(lambda: (decision(cluster) or {}).get("expected_now"), "a forecast")
        view = cluster.get("/admin/sizing")
        assert (view["mode"], view["leads"], view["term"]) == ("dry-run", True, 1)
        assert view["routers"] == [view["leader"]]
        last = view["last"]
        assert last["workload"]["output_tokens"] == pytest.approx(40, abs=1)
        assert 0 <= last["expected_now"]["goodput"] <= 1
        assert last["reason"]
        assert roles(cluster) == before


def test_the_controller_acts_where_targets_were_given(long_model: Path) -> None:
    """Nobody is left to decode: it makes one of them do both, and says why."""
    with Cluster(
        "--prefill", "1", "--decode", "1", "--ttft", "2s", "--itl", "200ms", model=long_model
    ) as cluster:
        [worker] = [name for name, kind in roles(cluster).items() if kind == "decode"]
        cluster.post(f"/admin/workers/{worker}/role", {"role": "prefill"})
        wait_for(lambda: "mixed" in roles(cluster).values(), "somebody who decodes")
        view = cluster.get("/admin/sizing")
        assert (view["mode"], view["term"]) == ("auto", 1)
        [entry] = [entry for entry in view["decisions"] if entry["moves"]]
        assert entry["reason"] == "nobody does one of the phases"
        assert {one["id"]: (one["role"], one["pinned"]) for one in view["workers"]} == {
            worker: ("prefill", True), entry["moves"][0]["worker"]: ("mixed", False)
        }
        outputs(Load(cluster.url, LATER, "after").start().wait())
        assert any("roles (" in line and "-> mixed" in line for line in cluster.output)
