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


AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
OTHER = "arrived_at,num_prefill_tokens,num_decode_tokens\n"
MOONCAKE = '{"timestamp": 1, "input_length": 9, "output_length": 2, "hash_ids": [1]}\n'


@pytest.mark.parametrize(("times", "seconds"), [
    (("2023-11-16 18:15:46.6805900", "2023-11-16 18:15:50.9951690"), 4.314579),
    (("2024-05-10 23:59:59.009930+00:00", "2024-05-11 00:00:00+00:00"), 0.99007),
    (("2024-05-10 23:59:59+00:00", "2024-05-11 02:00:00+02:00"), 1.0),
    (("10.25", "12"), 1.75),
])
def test_azure_as_it_is_published(tmp_path: Path, times: tuple[str, str], seconds: float) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(f"\ufeff{AZURE}{times[0]},374,44\r\n{times[1]},396.0,109\r\n\n")
    first, second = read_trace(path)
    assert (first.at, first.prompt, first.output) == (0.0, 374, 44)
    assert second.at == pytest.approx(seconds, abs=1e-5)
    assert (second.prompt, second.output) == (396, 109)


@pytest.mark.parametrize("header", [
    "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type",
    "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type",
])
def test_burst_gpt_of_both_releases(tmp_path: Path, header: str) -> None:
    values = {"Timestamp": "5", "Model": "ChatGPT", "Request tokens": "472",
              "Response tokens": "18", "Total tokens": "490", "Log Type": "Conversation log"}
    names = header.split(",")
    path = tmp_path / "burst.csv"
    path.write_text("\n".join([header, ",".join(values.get(name, "") for name in names)]))
    (only,) = read_trace(path)
    assert (only.prompt, only.output) == (472, 18)


@pytest.mark.parametrize(("text", "said"), [
    ("", "has no request"),
    ("\n\n", "has no request"),
    ("when,what\n1,2\n", "line 1: no column of times"),
    ("TIMESTAMP,ContextTokens\n1,2\n", "line 1: with TIMESTAMP there must be columns Generated"),
    (f"{OTHER}1,0,2\n", "line 2, column 'num_prefill_tokens': 0 tokens"),
    (f"{OTHER}1,4,2\n2,5\n", "line 3, column 'num_decode_tokens': is empty"),
    (f"{OTHER}1,4,2\n\n2,x,1\n", "line 4, column 'num_prefill_tokens': 'x' is no number"),
    (f"{OTHER}1,4.5,2\n", "line 2, column 'num_prefill_tokens': 4.5 is not a whole number"),
    (f"{OTHER}nan,4,2\n", "line 2, column 'arrived_at': nan is not finite"),
    (f"{OTHER}1,inf,2\n", "line 2, column 'num_prefill_tokens': inf is not finite"),
    (f"{AZURE}2023-13-16 18:15:46,4,2\n", "line 2, column 'TIMESTAMP': '2023-13-16 18:15:46'"),
    (f"{AZURE}soon,4,2\n", "line 2, column 'TIMESTAMP': 'soon' is no number"),
    ('{"timestamp": 1, "hash_ids": []}\n', "line 1, field 'input_length': is missing"),
    (MOONCAKE.replace("1,", "NaN,", 1), "line 1, field 'timestamp': nan is not finite"),
    (MOONCAKE.replace("1,", "1e999,", 1), "line 1, field 'timestamp': inf is not finite"),
    (MOONCAKE.replace("9", '"9 tokens"'), "line 1, field 'input_length': '9 tokens' is no number"),
    (MOONCAKE + '{"timestamp": 2, "inp\n' + MOONCAKE, "line 2: is no JSON: Unterminated string"),
    (MOONCAKE + MOONCAKE[:-9], "line 2: is no JSON"),
    (MOONCAKE + "[1]\n", "line 2: is no JSON object"),
    (MOONCAKE + '{"hello": 1}\n', "line 2, field 'timestamp': is missing"),
    ('{"hello": 1}\n', "line 1: Object missing required field"),
    ("{nonsense\n", "line 1: is no JSON: Expecting property name"),
    ("{nonsense\n" + MOONCAKE, "line 1: is no JSON: Expecting property name"),
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
