"""What is compared, under which load, and what is wanted of it."""

from __future__ import annotations

import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from baton.bench.compare.layouts import Layout, parse, peer, usual
from baton.bench.compare.loads import Load, fixed, parse_workload
from baton.bench.compare.running import LayoutFailed, Starter, end, version_of
from baton.bench.workloads.arrivals import Fit
from baton.protocol.errors import ConfigError
from baton.protocol.records import Targets
from baton.protocol.tokens import unpack_tokens

TARGETS = Targets(ttft=0.5, itl=0.0405)


def test_two_workers_have_one_split_and_colocated_ones_of_each_chunk() -> None:
    layouts = {layout.name: layout for layout in usual(2, (128, 512), TARGETS)}
    assert list(layouts) == ["colocated 128", "colocated 512", "colocated", "split 1+1", "auto"]
    assert layouts["colocated 512"].options == (
        "--mixed", "2", "--strict-roles", "--sizing", "off",
        "--max-batch-tokens", "512", "--max-running", "64",
    )
    assert layouts["split 1+1"].options == (
        "--prefill", "1", "--decode", "1", "--strict-roles", "--sizing", "off",
        "--ttft", "500ms", "--itl", "40.5ms",
    )
    assert layouts["auto"].options[:6] == ("--prefill", "1", "--decode", "1", "--sizing", "auto")


def test_a_small_step_takes_fewer_sequences() -> None:
    options = parse("colocated 64", 2, TARGETS).options
    assert options[options.index("--max-running") + 1] == "32"


@pytest.mark.parametrize(
    ("workers", "splits"),
    [(1, []), (2, ["1+1"]), (4, ["1+3", "2+2", "3+1"]), (8, ["2+6", "4+4", "6+2"])],
)
def test_splits_are_spaced_evenly(workers: int, splits: list[str]) -> None:
    found = [x.name for x in usual(workers, (), TARGETS) if x.family == "split"]
    assert found == [f"split {each}" for each in splits]


def test_a_layout_may_be_written_out() -> None:
    layout = parse("mine=--mixed 1 --decode 1 --prefill 0 --kv-blocks 99", 2, TARGETS)
    assert (layout.name, layout.options[-2:]) == ("mine", ("--kv-blocks", "99"))


@pytest.mark.parametrize("text", ["split 2+1", "split 0+2", "colocated x", "other", "=--mixed 2"])
def test_layouts_that_cannot_be(text: str) -> None:
    with pytest.raises(ConfigError, match=r"workers|no layout"):
        parse(text, 2, TARGETS)


def test_a_peer_is_a_name_and_a_url() -> None:
    assert peer("vllm=http://h:1/") == Layout("vllm", "peer", url="http://h:1")
    assert not peer("vllm=http://h:1").ours
    for text in ("vllm", "http://h:1", "vllm= ", "=http://h:1"):
        with pytest.raises(ConfigError, match="NAME=URL"):
            peer(text)


def test_a_peer_may_be_started_by_a_command() -> None:
    layout = peer("vllm=python -m start 'a b'")
    assert layout.command == ("python", "-m", "start", "a b")
    assert not layout.ours
    assert parse("auto", 2, TARGETS).ours


@contextmanager
def server(version: bytes | None) -> Iterator[str]:
    """Of a model "m"; `version`: what it says at /version."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = {"/v1/models": b'{"data": [{"id": "m"}]}', "/version": version}.get(self.path)
            self.send_response(404 if body is None else 200)
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{http.server_port}"
        finally:
            http.shutdown()
            thread.join()


def test_a_peer_tells_its_version() -> None:
    starter = Starter([])
    with server(b'{"version": "0.32.0"}') as url, starter(peer(f"vllm={url}")) as running:
        assert running.model == "m"
    assert starter.versions == {"vllm": "0.32.0"}


@pytest.mark.parametrize("said", [None, b"0.32", b'{"version": null}', b'["0.32"]'])
def test_a_peer_without_a_version_is_measured_all_the_same(said: bytes | None) -> None:
    starter = Starter([])
    with server(said) as url, starter(peer(f"other={url}")) as running:
        assert running.model == "m"
        assert version_of(url) is None
    assert starter.versions == {}


def test_a_command_that_is_not_there_is_a_layout_that_failed() -> None:
    starter = Starter([])
    with (
        pytest.raises(LayoutFailed, match="vllm: cannot run /nowhere/start: No such file"),
        starter(peer("vllm=/nowhere/start --port 0")),
    ):
        raise AssertionError("it runs")


# -- loads -----------------------------------------------------------------------------------


def load(text: str, seconds: float = 200.0) -> Load:
    return Load(text, parse_workload(text), TARGETS, Fit(), 0.0, seconds)


def test_a_server_that_takes_its_time_is_killed_at_the_second_ctrl_c(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It has a session of its own, so a terminal's Ctrl-C does not reach it."""
    process = subprocess.Popen(["sleep", "600"], start_new_session=True, text=True)
    monkeypatch.setattr(process, "send_signal", lambda number: None)  # it does not end by itself
    waited: list[float | None] = []
    wait = process.wait

    def interrupted(timeout: float | None = None) -> int:
        waited.append(timeout)
        if len(waited) == 1:
            raise KeyboardInterrupt
        return wait(60)

    monkeypatch.setattr(process, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        end(process)
    assert process.returncode == -signal.SIGKILL


def test_a_mix_of_lengths_has_its_shares_and_lengths() -> None:
    arrivals = load("96/192+1536/8:0.2").arrivals(5.0, seed=3)
    lengths = [(len(unpack_tokens(a.prompt())), a.length) for a in arrivals]
    assert set(lengths) == {(96, 192), (1536, 8)}
    assert lengths.count((1536, 8)) / len(lengths) == pytest.approx(0.2, abs=0.05)
    assert len(arrivals) == pytest.approx(1000, rel=0.1)
    assert {a.targets for a in arrivals} == {TARGETS}


def test_the_same_seed_gives_the_same_requests_only_faster() -> None:
    slow, fast = (load("64/8", 1000 / rate).arrivals(rate, seed=1) for rate in (1.0, 2.0))
    assert [a.at for a in slow[:50]] == pytest.approx([2 * a.at for a in fast[:50]])
    assert [a.prompt() for a in slow[:50]] == [a.prompt() for a in fast[:50]]
    assert load("64/8").arrivals(1.0, seed=2)[0].prompt() != slow[0].prompt()


def test_no_two_requests_share_a_prompt() -> None:
    prompts = [a.prompt()[:64] for a in load("64/8").arrivals(2.0, seed=1)]
    assert len(set(prompts)) == len(prompts) > 100


def test_named_workloads_are_loads() -> None:
    assert parse_workload("chat").name == "chat"


@pytest.mark.parametrize("text", ["512", "512/64:0.2", "1/2+3/4", "1/2:0.5+3/4:0.5", "a/b", "0/5"])
def test_loads_that_cannot_be(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_workload(text)


def test_lengths_begin_at_one() -> None:
    assert fixed(1, 1).prompt == 1
    with pytest.raises(ConfigError, match="at least one"):
        fixed(0, 1)
