"""The command as people meet it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import baton
from tiny_model import make_tiny_model

from baton.protocol.profile import decode_profile


def process(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """The command as people start it; most tests do without a process of its own."""
    return subprocess.run(
        [sys.executable, "-P", "-m", "baton.deploy.cli", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=110,
        env={**os.environ, "COLUMNS": "120", "NO_COLOR": "1"},
    )


def test_help_shows_every_command() -> None:
    done = process("--help")
    assert done.returncode == 0
    for command in (
        "up", "router", "worker", "chat", "drain", "role", "top", "explain", "doctor", "profile",
        "bench", "plan", "simulate", "version",
    ):
        assert command in done.stdout


@pytest.mark.parametrize("command", ["up", "router", "worker", "chat", "drain", "doctor"])
def test_help_of_a_command(command: str) -> None:
    done = baton(command, "--help")
    assert done.returncode == 0
    if command != "doctor":
        assert "Example" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["up", "--prefill", "0"], 1, "--prefill 0 leaves nobody to prefill"),
        (["up", "/nonexistent"], 1, "/nonexistent"),
        (["up", "--host", "0.0.0.0"], 1, "--insecure"),
        (["up", "--kv-memory", "lots"], 2, "such as 2GiB"),
        (["up", "--colour", "red"], 2, "--colour"),
        (["up", "--port", "x"], 2, "--port"),
        (["worker", "--role", "boss", "--join", "a:1"], 1, "'boss'"),
        (["worker", "--role", "decode", "--join", "a"], 1, "--join must be HOST:PORT"),
        (["worker", "--role", "decode"], 2, "--join"),
        (["worker", "--role", "decode", "--join", "a:1", "--cpus", "x"], 2, "such as 0-3,8"),
        (["worker", "--role", "decode", "--join", "a:1", "--cpus", "0-1", "--device", "x"], 1,
         "--device must be cpu"),
        (["router", "--control", "nonsense"], 1, "--control must be HOST:PORT"),
        (["bench", "nothing"], 1, "no benchmark 'nothing'"),
        (["profile", "--seconds", "soon"], 2, "such as 300ms"),
        (["profile", "/nonexistent"], 1, "/nonexistent"),
        (["drain"], 2, "WORKER"),
        (["drain", "d0", "--url", "http://127.0.0.1:9"], 1, "no router at http://127.0.0.1:9"),
        (["chat", "--url", "http://127.0.0.1:9"], 1, "no server at http://127.0.0.1:9"),
    ],
)
def test_mistakes_are_one_message(arguments: list[str], code: int, said: str) -> None:
    done = baton(*arguments, stdin="hello")
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    if code == 1:
        assert done.stderr.count("\n") == 1
        assert done.stderr.startswith("baton: ")


def test_version() -> None:
    assert baton("version").stdout.startswith("baton ")


def test_a_process_ends_as_the_command_does() -> None:
    done = process("up", "/nonexistent")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == baton("up", "/nonexistent").stderr


def test_bench_lists_its_parts() -> None:
    listed = baton("bench").stdout
    assert "engine" in listed
    assert "transfer" in listed


@pytest.mark.parametrize("name", ["engine", "transfer", "startup"])
def test_benches_say_what_they_take(name: str) -> None:
    done = baton("bench", name, "--help")
    assert done.returncode == 0
    assert f"usage: baton bench {name}" in done.stdout


def test_bench_engine_as_json(tmp_path: Path) -> None:
    model = make_tiny_model(tmp_path)
    done = process(
        "bench", "engine", str(model), "--json", "--rounds", "1", "--threads", "1",
        "--dtype", "float32",
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["series"]["dtypes"][0]["dtype"] == "float32"


def test_profile_writes_what_can_be_read_again(tmp_path: Path) -> None:
    model = make_tiny_model(tmp_path)
    done = process(
        "profile", str(model), "--seconds", "1s", "--threads", "1", "--dtype", "float32",
        "--max-context", "128", "--out", str(tmp_path / "profile.json"),
    )
    assert done.returncode == 0, done.stderr
    assert "prefill" in done.stdout
    assert "steps that were not fitted" in done.stdout
    profile = decode_profile((tmp_path / "profile.json").read_bytes())
    assert (profile.dtype, profile.device, profile.threads) == ("float32", "cpu", 1)
    assert profile.curve.steps == len(profile.samples) >= 16
    assert profile.curve.base > 0
    assert profile.error is not None
    assert profile.machine["command"].startswith("baton profile")


def test_doctor() -> None:
    done = process("doctor", "--json")
    report = json.loads(done.stdout)
    assert done.returncode == (0 if report["can_serve"] else 1)
    found = {(finding["area"], finding["what"]) for finding in report["findings"]}
    for fact in (("CPU", "cores"), ("memory", "/dev/shm"), ("UCX", "within this host")):
        assert fact in found
    for finding in report["findings"]:
        assert finding["level"] in ("ok", "lack", "missing")
        assert finding["note"] or finding["level"] == "ok", "a lack says what it costs"
    assert "serve here" in process("doctor").stdout
