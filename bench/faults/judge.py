"""Whether a disturbed run kept the promises: the same tokens as an undisturbed one, no failed
request, no long stall, nothing left behind."""

from __future__ import annotations

import json
import statistics
import urllib.request
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from baton.bench.faults.load import Ask, Seen
from baton.bench.faults.stalls import longest_silence, longest_stall

TIE = 1e-4
"""Two logits closer than this may change places when a batch is put together differently."""
SILENCE = 3.5
"""In place of `stalls.DETECTION` where nobody died: seconds after which a peer that says nothing
is given up (`LinkSettings.lost_after`), and a bit."""


@dataclass(slots=True)
class Verdict:
    """One fault's outcome. Seconds; None where it does not apply."""

    fault: str
    in_flight: int = 0
    """Requests in flight when it happened."""
    failed: int = 0
    """Requests that did not get all their tokens."""
    typed: int = 0
    """Of these, how many ended with a typed error."""
    errors: dict[str, int] = field(default_factory=dict)
    changed: int = 0
    """Outputs that differ from the undisturbed run where no near tie explains it."""
    ties: int = 0
    """Outputs that differ from a position on where the two best logits are within TIE."""
    detection: float | None = None
    redispatch: float | None = None
    stall: float | None = None
    """The longest of any stream."""
    stall_undisturbed: float | None = None
    stall_limit: float | None = None
    slowest_answer: float | None = None
    left: dict[str, Any] = field(default_factory=dict)
    """Blocks and requests that workers still hold afterwards."""
    notes: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    """What was wrong or lost."""
    late: list[str] = field(default_factory=list)
    """What was right but took too long."""

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "held": self.held}

    @property
    def held(self) -> bool:
        """Whether everything promised was kept."""
        return not self.problems and not self.late

    def check(self, condition: bool, problem: str) -> None:
        if not condition:
            self.problems.append(problem)

    def check_time(self, name: str, seconds: float, limit: float) -> None:
        if seconds > limit:
            self.late.append(f"{name}: {seconds:.2f} s, not {limit:.2f} s")


class Oracle:
    """What each request answers when nothing goes wrong, and how long its stalls are then."""

    def __init__(self, asks: Sequence[Ask], seen: Sequence[Seen]) -> None:
        broken = [s for s in seen if not s.complete]
        if broken:
            raise RuntimeError(f"{len(broken)} requests failed undisturbed: {broken[0].error}")
        self.asks = list(asks)
        self.outputs = [tuple(s.ids) for s in seen]
        self.stall = longest_stall(seen)
        self.silence = longest_silence(seen)
        self.ttft = statistics.median(s.ttft for s in seen)
        self.seconds = max(s.ended for s in seen) - min(s.sent for s in seen)

    def judge(
        self,
        url: str,
        verdict: Verdict,
        seen: Sequence[Seen],
        *,
        may_fail: bool = False,
        first: int = 0,
    ) -> None:
        """Add what the streams show, of the asks from number `first` on. `url`: whom to ask how
        near a tie was. `may_fail`: a typed error is as good as an answer; what came before it must
        be right all the same."""
        verdict.stall_undisturbed = self.stall
        verdict.stall = max(longest_stall(seen), verdict.stall or 0.0)
        failed, typed, changed = verdict.failed, verdict.typed, verdict.changed
        for number, stream in enumerate(seen, first):
            wanted = self.outputs[number]
            if not stream.complete:
                verdict.failed += 1
                verdict.typed += stream.typed
                reason = stream.error or "ended without an end"
                verdict.errors[reason] = verdict.errors.get(reason, 0) + 1
                wanted = wanted[: len(stream.ids)]
            if tuple(stream.ids) != wanted:
                if self._is_tie(url, self.asks[number], wanted, stream.ids):
                    verdict.ties += 1
                else:
                    verdict.changed += 1
        failed, typed = verdict.failed - failed, verdict.typed - typed
        verdict.check(
            failed == (typed if may_fail else 0), f"{failed} requests failed: {verdict.errors}"
        )
        changed = verdict.changed - changed
        verdict.check(changed == 0, f"{changed} outputs changed")

    def _is_tie(
        self, url: str, ask: Ask, wanted: Sequence[int], got: Sequence[int]
    ) -> bool:
        """Whether, where they part, both tokens are the two best and about as likely."""
        same = next(
            (i for i, (a, b) in enumerate(zip(wanted, got, strict=False)) if a != b), None
        )
        if same is None:
            return False  # one is shorter: a token is missing or too many
        best, gap = two_best(url, [*ask.prompt, *wanted[:same]])
        return {wanted[same], got[same]} == set(best) and gap < TIE


def two_best(url: str, prompt: Sequence[int]) -> tuple[tuple[int, int], float]:
    """The two likeliest next tokens after these, and how far apart their logits are."""
    best, tops = _next(url, prompt, {})
    second, _ = _next(url, prompt, {str(best): -100})
    ranked = sorted(tops, reverse=True)
    return (best, second), ranked[0] - ranked[1]


def _next(url: str, prompt: Sequence[int], bias: dict[str, int]) -> tuple[int, list[float]]:
    """The next token, greedily, and the log-probabilities of the likeliest ones."""
    body = {"prompt": list(prompt), "max_tokens": 1, "temperature": 0, "logprobs": 2,
            "return_token_ids": True, "ignore_eos": True, "logit_bias": bias}
    request = urllib.request.Request(
        f"{url}/v1/completions", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as reply:
        choice = json.load(reply)["choices"][0]
    return choice["token_ids"][0], list(choice["logprobs"]["top_logprobs"][0].values())
