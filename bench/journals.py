"""What a router's journal holds, read back (`router/journal.py` writes it)."""

from __future__ import annotations

from pathlib import Path

import msgspec

from baton.router.account import Account


def read_accounts(path: Path) -> tuple[list[Account], int]:
    """In the order of the file, that of their ends; and how many lines are no account, such as one
    that a crash cut short. Raises OSError."""
    decoder = msgspec.json.Decoder(Account)
    accounts, torn = [], 0
    for line in path.read_bytes().splitlines():
        if not line.strip():
            continue
        try:
            accounts.append(decoder.decode(line))
        except msgspec.MsgspecError:
            torn += 1
    return accounts, torn
