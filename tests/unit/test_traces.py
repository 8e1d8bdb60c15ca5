"""Traces of others, and journals, become requests that share what they shared."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from baton.bench.workloads.traces import Traced, read_trace, replay
from baton.protocol.errors import ConfigError
from baton.protocol.records import Targets
from baton.router.account import Account, prefix_depths

TARGETS = Targets(ttft=1.0, itl=0.1)


def test_mooncake(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text(
        '{"timestamp": 3000, "input_length": 1300, "output_length": 7, "hash_ids": [0, 1, 9]}\n'
        '{"timestamp": 1000, "input_length": 1100, "output_length": 5, "hash_ids": [0, 1, 2]}\n'
    )
    first, second = read_trace(path)
    assert (first.at, first.prompt, first.output) == (0.0, 1100, 5)
    assert (second.at, second.prompt, second.output) == (2.0, 1300, 7)
    a, b = replay([first, second], speed=2.0, longest=2000, max_tokens=6, targets=TARGETS)
    assert (a.at, b.at) == (0.0, 1.0)
    assert (a.length, b.length) == (5, 6)
    one, other = a.prompt(), b.prompt()
    assert (len(one), len(other)) == (4 * 1100, 4 * 1300)
    assert one[: 4 * 1024] == other[: 4 * 1024]
    assert one[4 * 1024 :] != other[4 * 1024 : 4 * 1100]


def test_azure_shares_nothing(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text("arrived_at,num_prefill_tokens,num_decode_tokens\n10.0,40,4\n10.5,40,9\n")
    a, b = replay(read_trace(path), longest=99, max_tokens=99, targets=TARGETS)
    assert (a.at, b.at) == (0.0, 0.5)
    assert a.prompt()[:16] != b.prompt()[:16]


def test_a_journal_shares_prefixes(tmp_path: Path) -> None:
    def account(name: str, prompt: int, ends: list[str], arrived: float) -> Account:
        return Account(
            id=name, arrived=arrived, lane="interactive", prompt_tokens=prompt, max_tokens=9,
            output_tokens=3, outcome="completed", block_size=16, prefix=tuple(ends),
        )

    assert prefix_depths(200, 16) == [4, 8, 12]
    entries = [
        account("a/0", 200, ["p", "q", "r"], 100.0),
        account("b/0", 150, ["p", "x"], 101.0),
        account("c/0", 30, [], 102.0),
    ]
    path = tmp_path / "journal.jsonl"
    lines = [msgspec.json.encode(entry) for entry in entries]
    path.write_bytes(b"\n".join([*lines[:2], b'{"v":1,"id":"torn', lines[2]]) + b"\n")
    assert read_trace(path)[0].parts == (("prefix p", 64), ("prefix q", 64), ("prefix r", 64))
    arrivals = list(replay(read_trace(path), longest=999, max_tokens=99, targets=TARGETS))
    assert [arrival.at for arrival in arrivals] == [0.0, 1.0, 2.0]
    a, b, c = (arrival.prompt() for arrival in arrivals)
    assert [len(prompt) // 4 for prompt in (a, b, c)] == [200, 150, 30]
    assert a[: 4 * 64] == b[: 4 * 64]
    assert a[4 * 64 : 4 * 128] != b[4 * 64 : 4 * 128]


def test_a_part_of_a_trace_and_what_is_too_long(tmp_path: Path) -> None:
    trace = [Traced(float(n), 10 * (n + 1), 5) for n in range(10)]
    chosen = list(replay(
        trace, start=2.0, seconds=5.0, longest=60, max_tokens=9, targets=TARGETS
    ))
    assert [arrival.at for arrival in chosen] == [0.0, 1.0, 2.0, 3.0]
    assert [len(arrival.prompt()) // 4 for arrival in chosen] == [30, 40, 50, 60]


@pytest.mark.parametrize(("text", "said"), [
    ("", "has no request"),
    ("when,what\n1,2\n", "no 'arrived_at'"),
    ("arrived_at,num_prefill_tokens,num_decode_tokens\n1,0,2\n", "0 tokens"),
    ('{"timestamp": 1, "hash_ids": []}\n', "no 'input_length'"),
    ('{"hello": 1}\n', "missing required field"),
    ("{nonsense\n", "Expecting property name"),
])
def test_what_is_no_trace_is_said(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "trace"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_trace(path)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the trace .*No such file"):
        read_trace(tmp_path / "nothing")
