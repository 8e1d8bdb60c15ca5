"""The journal of requests, what a lane's last minute is made of, and which prefixes are named."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import msgspec
import pytest

from baton.protocol.errors import ConfigError
from baton.router.account import Account, prefix_depths
from baton.router.history import History
from baton.router.journal import Journal
from baton.router.window import Window


def account(number: int = 0, **changes: object) -> Account:
    values: dict[str, object] = {
        "id": f"cmpl-{number}/0", "arrived": 1.5, "lane": "interactive", "prompt_tokens": 100,
        "max_tokens": 10, "outcome": "completed", "ttft": 0.1, "itl": 0.01,
        "ttft_target": 0.2, "itl_target": 0.02,
    }  # fmt: skip
    return Account(**{**values, **changes})  # type: ignore[arg-type]


def lines(path: Path) -> list[Account]:
    return [msgspec.json.decode(line, type=Account) for line in path.read_bytes().splitlines()]


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "new" / "requests.jsonl")
    written = [account(number, output_tokens=number) for number in range(100)]
    for entry in written:
        journal.add(entry)
    journal.close()
    assert lines(journal.path) == written
    assert journal.path.stat().st_mode & 0o077 == 0
    again = Journal(journal.path)
    again.add(account(100))
    again.close()
    assert len(lines(journal.path)) == 101


def test_full_files_are_renamed_and_the_oldest_goes(tmp_path: Path) -> None:
    size = len(msgspec.json.encode(account(10))) + 1
    journal = Journal(tmp_path / "requests.jsonl", file_bytes=3 * size, files=3)
    for number in range(10, 21):
        journal.add(account(number))
    journal.close()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["requests.jsonl", "requests.jsonl.1", "requests.jsonl.2"]
    kept = [e.id for name in reversed(names) for e in lines(tmp_path / name)]
    assert kept == [f"cmpl-{number}/0" for number in range(13, 21)]


def test_a_torn_line_spoils_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    path.write_bytes(b'{"v":1,"id":"cm')
    journal = Journal(path)
    journal.add(account(7))
    journal.close()
    torn, whole = path.read_bytes().splitlines()
    assert torn == b'{"v":1,"id":"cm'
    assert msgspec.json.decode(whole, type=Account) == account(7)


def test_a_full_disk_costs_lines_and_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    journal = Journal(tmp_path / "requests.jsonl")
    real = os.write

    def full(file: int, data: bytes) -> int:
        if b"cmpl-1" in data:
            raise OSError(28, "No space left on device")
        return real(file, data)

    monkeypatch.setattr(os, "write", full)
    with caplog.at_level(logging.ERROR):
        for number in (1, 11, 12, 2):
            journal.add(account(number))
        journal.close()
    assert journal.lost == 3
    assert [entry.id for entry in lines(journal.path)] == ["cmpl-2/0"]
    assert [r.message for r in caplog.records if "No space left" in r.message] == [
        f"lines of the journal {journal.path} are lost: No space left on device"
    ]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"--journal .*file/requests.jsonl cannot be written"):
        Journal(tmp_path / "file" / "requests.jsonl")


@pytest.mark.parametrize(
    ("changes", "attained"),
    [
        ({}, True),
        ({"ttft": 0.21}, False),
        ({"itl": 0.021}, False),
        ({"itl": None}, True),
        ({"ttft": 99.0, "ttft_target": None}, True),
        ({"outcome": "refused", "ttft": None}, False),
        ({"outcome": "failed"}, False),
        ({"outcome": "cancelled"}, True),
        ({"outcome": "cancelled", "ttft": None}, None),
        ({"outcome": "running"}, None),
    ],
)
def test_attained(changes: dict[str, object], attained: bool | None) -> None:
    assert account(**changes).attained is attained  # type: ignore[arg-type]


def test_the_last_minute_of_each_lane() -> None:
    window = Window(60.0)
    for number in range(10):
        window.add(account(number, ttft=0.03 * number), 1000.0 + number)
    window.add(account(10, lane="batch", outcome="refused", ttft=None, itl=None), 1009.0)
    summary = window.summary(1010.0)
    assert list(summary) == ["batch", "interactive"]
    assert (summary["batch"].refused, summary["batch"].attained) == (1, 0.0)
    interactive = summary["interactive"]
    assert interactive.requests == 10
    assert interactive.per_second == pytest.approx(1.0)
    assert interactive.attained == 0.7  # 0.21 s is beyond the target, and so are two more
    assert interactive.ttft.p50 == pytest.approx(0.15)
    assert window.summary(1064.5)["interactive"].requests == 5
    assert window.summary(1080.0) == {}


def test_the_history_forgets_the_oldest() -> None:
    told: list[Account] = []
    history = History(told.append, max_ended=3)
    for number in range(5):
        history.ended(account(number), float(number))
    assert [entry.id for entry in history.latest(2)] == ["cmpl-4/0", "cmpl-3/0"]
    assert len(told) == 5
    assert history.of("cmpl-0") == []
    assert [entry.id for entry in history.of("cmpl-2")] == ["cmpl-2/0"]
    choices = [account(id=f"x/{choice}") for choice in (0, 10, 2)]
    running = [account(id="x/1", outcome="running"), account(id="xy/1", outcome="running")]
    for choice in choices:
        history.ended(choice, 9.0)
    assert [entry.id for entry in history.of("x", running)] == ["x/0", "x/1", "x/2", "x/10"]
    assert [entry.id for entry in history.of("x/10", running)] == ["x/10"]
    history.ended(account(id="chatcmpl-0123456789abcdef/0"), 10.0)
    assert [e.id for e in history.of("chatcmpl-0123456789a")] == ["chatcmpl-0123456789abcdef/0"]
    assert history.of("chatcmpl-0123456789") == []


def test_prefixes_are_named_densely_at_first() -> None:
    assert prefix_depths(63, 16) == []
    assert prefix_depths(200, 16) == [4, 8, 12]
    assert prefix_depths(2600, 16) == [*range(4, 65, 4), 96, 128, 160]
    assert prefix_depths(2600, 64)[:3] == [1, 2, 3]
    assert prefix_depths(5000, 1024) == [1, 2, 3, 4]
