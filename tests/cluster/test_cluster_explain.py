"""What a real cluster tells of its requests: headers, pages, journal, `baton explain` and `top`."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path

import msgspec
from cluster import Cluster, lines_of, wait_for

from baton.router.account import Account, prefix_depths


def test_a_request_is_told_in_every_way(tiny_model: Path, tmp_path: Path) -> None:
    journal = tmp_path / "requests.jsonl"
    # Targets that it keeps, whatever holds the machine up.
    targets = ("--ttft", "100s", "--itl", "100s", "--sizing", "off")
    arguments = ("--prefill", "1", "--decode", "1", "--journal", str(journal), *targets)
    with Cluster(*arguments, model=tiny_model) as cluster:
        body = {"prompt": list(range(5, 205)), "max_tokens": 8, "ignore_eos": True, "n": 2}
        request = urllib.request.Request(
            cluster.url + "/v1/completions", json.dumps(body).encode(),
            {"content-type": "application/json", "x-baton-explain": "1"},
        )
        with urllib.request.urlopen(request, timeout=60) as reply:
            headers, answer = dict(reply.headers), json.load(reply)
        assert headers["x-baton-decode-worker"] in ("decode-0", "prefill-0")
        assert float(headers["x-baton-predicted-ttft-ms"]) > 0

        told = cluster.get(f"/admin/requests/{answer['id']}")["choices"]
        assert [choice["id"] for choice in told] == [f"{answer['id']}/0", f"{answer['id']}/1"]
        first = msgspec.convert(told[0], Account)
        assert (first.prompt_tokens, first.output_tokens, first.outcome, first.finish) == (
            200, 8, "completed", "length"
        )
        assert first.attempts[-1].decode == headers["x-baton-decode-worker"]
        assert first.ttft is not None
        assert first.e2e is not None
        assert 0 < first.ttft < first.e2e
        assert len(first.prefix) == len(prefix_depths(200, first.block_size))
        assert first.attained is True

        status, text = lines_of(["explain", answer["id"], "--url", cluster.url])
        assert status == 0, text
        assert f"{answer['id']}/1" in text
        assert "first token" in text
        assert first.attempts[-1].reason in text
        status, text = lines_of(["explain", "chatcmpl-none", "--url", cluster.url])
        assert status != 0
        assert "nothing is known (any more) of 'chatcmpl-none'" in text

        status, text = lines_of(["top", "--once", "--url", cluster.url])
        assert status == 0, text
        for word in ("interactive", "batch", "prefill-0", "decode-0", answer["id"][:20]):
            assert word in text
        overview = cluster.get("/admin/overview")
        assert {lane["name"]: lane["waiting"] for lane in overview["lanes"]} == {
            "interactive": 0, "batch": 0,
        }
        assert overview["lanes"][0]["summary"]["requests"] == 2
        written = wait_for(
            lambda: lines if len(lines := journal.read_bytes().splitlines()) == 2 else None,
            "both choices in the journal",
        )
    accounts = sorted(
        (msgspec.json.decode(line, type=Account) for line in written), key=lambda a: a.id
    )
    assert accounts == [msgspec.convert(choice, Account) for choice in told]
    assert not [field for field in accounts[0].__struct_fields__ if "text" in field]
