"""A run as tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from baton.bench.report import console, show_table
from baton.bench.serve.served import Served
from baton.bench.serve.server_side import beside

_TIMES = (
    ("TTFT", "ttft_ms"), ("ITL, of each token", "itl_ms"), ("TPOT, of each request", "tpot_ms"),
    ("longest gap of a request", "longest_gap_ms"), ("E2E", "e2e_ms"),
)
_SHOWN_PHASES = 24


def show(served: Served, figures: dict[str, Any], noted: Sequence[str] | None = None) -> None:
    """Everything that a person wants to know; warnings last. `noted`: in place of `warnings`."""
    _times(figures)
    show_table("requests and tokens", ("", ""), _counts(served, figures))
    _server(served, figures)
    _client(figures["client"])
    for warning in warnings(served, figures) if noted is None else noted:
        console().print(f"[bold yellow]note:[/] {warning}", highlight=False)


def warnings(served: Served, figures: dict[str, Any]) -> list[str]:
    """What bounds the result, in words."""
    found = list(figures["client"]["doubts"])
    if served.stopped:
        found.append("stopped early: what still ran is not counted")
    if served.server.ends_early:
        found.append("the server does not take ignore_eos: answers may be shorter than asked for")
    if figures["short"]:
        found.append(f"{figures['short']} answers were shorter than asked for")
    inexact = [how for how in figures["counted_by"]
               if how in ("share of text", "pieces, unchecked")]
    if inexact:
        found.append(f"tokens are counted by {', '.join(inexact)}: the server does not tell more; "
                     "--tokenizer counts them")
    if figures["held"]:
        found.append(f"{figures['held']} turns were sent late, because the answer before them was")
    details = {one.detail for one in served.counted if one.detail}
    found += [f"a server said: {detail[:200]}" for detail in sorted(details)[:5]]
    return found


def _times(figures: dict[str, Any]) -> None:
    lines = []
    for name, key in _TIMES:
        spread = figures[key]
        if spread is None:
            continue
        low, high = spread.get("ci", {}).get("p99") or ("", "")
        lines.append((name, spread["mean"], spread["p50"], spread["p90"], spread["p95"],
                      spread["p99"], f"{low} to {high}" if low != "" else "", spread["max"]))
    show_table("milliseconds, seen by the client",
               ("", "mean", "p50", "p90", "p95", "p99", "95 % interval of p99", "max"), lines)


def _counts(served: Served, figures: dict[str, Any]) -> list[tuple[str, object]]:
    ends = ", ".join(f"{end} {number}" for end, number in figures["ends"].items())
    lines: list[tuple[str, object]] = [
        ("requests that count, per second",
         f"{figures['requests']}, {figures['rate_per_s']}"),
        ("how they ended", ends),
        ("goodput per second, 95 % interval",
         f"{figures['goodput_per_s']}, {_interval(figures['goodput_ci'])}"),
        ("attained all targets", f"{figures['attainment']}, {_interval(figures['attainment_ci'])}"),
        ("output tokens per second", figures["output_tokens_per_s"]),
        ("prompt tokens per second", figures["prompt_tokens_per_s"]),
        ("tokens counted by", ", ".join(figures["counted_by"])),
    ]
    if figures["hit_rate"]:
        lines.append(("prompt tokens from a cache", figures["hit_rate"]))
    for key, name in (("per_worker", "per worker"), ("per_cost", "per unit of cost")):
        for what, value in figures.get(key, {}).items():
            lines.append((f"{what.replace('_', ' ')}, {name}", value))
    for what, value in figures["explained"].items():
        shown = value
        if isinstance(value, dict):
            shown = ", ".join(f"{name} {number}" for name, number in value.items())
        lines.append((f"server: {what.replace('_', ' ')}", shown))
    lines.append(("server was there after, first answer after",
                  f"{served.server.waited:.2f} s, {1e3 * served.server.first:.0f} ms"))
    return lines


def _server(served: Served, figures: dict[str, Any]) -> None:
    side = served.server_side()
    if not side.get("times"):
        console().print("the server has no histograms at /metrics")
        return
    pairs = beside(figures, side["times"])
    if pairs:
        show_table(
            "means in milliseconds, on both sides",
            ("", "client", "server", "between them"),
            [(name.removesuffix("_ms").upper(), pair["client"], pair["server"],
              round(pair["client"] - pair["server"], 3)) for name, pair in pairs.items()],
        )
    known = sorted(side["times"].items(), key=lambda item: _rank(item[0]))
    show_table(
        "the server's own histograms, of the same time",
        ("", "mean ms", "count"),
        [(name, value["mean_ms"], value["count"]) for name, value in known[:_SHOWN_PHASES]],
    )


def _rank(name: str) -> tuple[int, str]:
    """What the client sees too comes first, then phases."""
    order = ("ttft", "time_to_first", "itl", "inter_token", "time_per_output", "e2e", "queue",
             "phase", "prefill", "decode")
    return next((n for n, part in enumerate(order) if part in name), len(order)), name


def _client(client: dict[str, Any]) -> None:
    lines = [
        (name, *(spread[key] for key in ("p50", "p99", "max")))
        for name, spread in (("of its event loop", client["loop_lag_ms"]),
                             ("of sending", client["send_lag_ms"]))
        if spread
    ]
    show_table(f"the client's own lag, ms; it used {client['cpu_share']:.1%} of a core",
               ("", "p50", "p99", "max"), lines)


def _interval(interval: list[float] | None) -> str:
    return "-" if interval is None else f"{interval[0]} to {interval[1]}"
