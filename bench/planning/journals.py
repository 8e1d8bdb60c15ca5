"""What a router's journal says of the traffic that was: its requests, how they fared, and which
workers there were."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from baton.bench.journals import read_accounts
from baton.bench.planning.layout import ROLES, Layout, Role
from baton.bench.planning.plan import SHARES
from baton.bench.planning.run import RunFigures
from baton.bench.planning.wishes import Wishes
from baton.protocol.errors import ConfigError
from baton.router.account import Account


def read_journal(path: Path) -> list[Account]:
    """In the order of their arrival; lines that a crash cut short are left out. Raises ConfigError
    when it cannot be read, or is no journal."""
    try:
        accounts, torn = read_accounts(path)
    except OSError as error:
        raise ConfigError(f"cannot read the journal {path}: {error.strerror}") from error
    if len(accounts) < 2 or torn > len(accounts):
        raise ConfigError(f"{path} is no journal of a router (`baton up --journal FILE`), or has "
                          "less than two requests")
    return sorted(accounts, key=lambda account: account.arrived)


def targets_of(accounts: Sequence[Account], usual: Wishes) -> Wishes:
    """What most requests were to keep."""
    pairs = Counter(
        (account.ttft_target, account.itl_target) for account in accounts
        if account.ttft_target is not None and account.itl_target is not None
    )
    if not pairs:
        return usual
    ttft, itl = pairs.most_common(1)[0][0]
    assert ttft is not None
    assert itl is not None
    return Wishes(ttft=ttft, itl=itl, e2e=usual.e2e, attainment=usual.attainment)


def layout_of(accounts: Sequence[Account], kind: int = 0) -> Layout | None:
    """The workers that requests ran on, each with what it did most; None when nothing ran."""
    did: dict[str, Counter[str]] = {}
    for account in accounts:
        for attempt in account.attempts:
            if attempt.prefill is None or attempt.prefill == attempt.decode:
                did.setdefault(attempt.decode, Counter())["mixed"] += 1
            else:
                did.setdefault(attempt.prefill, Counter())["prefill"] += 1
                did.setdefault(attempt.decode, Counter())["decode"] += 1
    roles = Counter(_role(worker, counts) for worker, counts in did.items())
    if not roles["mixed"] and not (roles["prefill"] and roles["decode"]):
        return None
    pools = tuple(Role(role, roles[role], kind) for role in ROLES if roles[role])
    if len(pools) == 1:
        return Layout(pools, strict=not _any(accounts, "remote"))
    return Layout(pools, strict=not roles["mixed"] and not _any(accounts, "local"))


def seen_of(accounts: Sequence[Account], wishes: Wishes) -> RunFigures:
    """How they fared, as a simulation would tell it. What a client gave up before its first token
    says nothing."""
    judged = [a for a in accounts if not (a.outcome == "cancelled" and a.ttft is None)]
    served = [a for a in judged if a.outcome not in ("refused", "failed") and a.ttft is not None]
    seconds = max(1e-3, accounts[-1].arrived - accounts[0].arrived)
    kept = sum(_kept(account, wishes) for account in served)
    itl = [a.itl for a in served if a.itl is not None]
    prompts = sum(a.prompt_tokens for a in served)
    return RunFigures(
        rate=len(judged) / seconds,
        came=len(judged) / seconds,
        seed=0,
        requests=len(judged),
        attainment=kept / len(judged) if judged else 1.0,
        goodput=kept / seconds,
        served=len(served) / len(judged) if judged else 1.0,
        ttft=tuple(a.ttft for a in served if a.ttft is not None),
        itl=tuple(itl),
        e2e=tuple(a.e2e for a in served if a.e2e is not None),
        gaps=(None,) * len(SHARES),  # of single tokens nothing is kept
        hit_rate=sum(a.cached_tokens or 0 for a in served) / prompts if prompts else 0.0,
        busy={},
        busy_over_time={},
        handed=sum(a.attempts[-1].route == "remote" for a in judged if a.attempts)
        / max(1, sum(bool(a.attempts) for a in judged)),
        missed={},
    )


# -- inside ----------------------------------------------------------------------------------


def _role(worker: str, counts: Counter[str]) -> str:
    """`baton up` names workers by their first role; else what it did tells."""
    named = worker.partition("-")[0]
    return named if named in ROLES else counts.most_common(1)[0][0]


def _any(accounts: Sequence[Account], route: str) -> bool:
    """Some request went so."""
    return any(attempt.route == route for account in accounts for attempt in account.attempts)


def _kept(account: Account, wishes: Wishes) -> bool:
    assert account.ttft is not None
    return (
        account.ttft <= wishes.ttft
        and (account.itl is None or account.itl <= wishes.itl)
        and (wishes.e2e is None or account.e2e is None or account.e2e <= wishes.e2e)
    )
