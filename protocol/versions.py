"""What each version of the protocol added, and so what may be said to an older peer.

| version | added |
|---|---|
| 1 | the first |
| 2 | `Curves`, `Lend`, `Migrate`, `Parked`, `Probe`, `SetDraining`; |
|   | `CacheEvents`, `CacheDump`, `ResendCache`; |
|   | `prefill_chunk`, `max_batch_tokens` of a `WorkerHello`; |
|   | schemes of a `Grant` other than one block per message; `process` in a hello; `num_blocks`, |
|   | `checksums` and `layers_per_message` of a `Sealed`; `lender` of a `Prefill` or `Generate` |

A field at the end of a record is skipped by a peer that does not know it. That is harmless for all
of version 2's but a Grant's scheme: an older sender would send other messages than were posted.
Cut by layers it is only for a sender that asked for it in its last seal.
"""

from __future__ import annotations

from baton.protocol.cache_events import CacheRecord
from baton.protocol.records import (
    DIRECT,
    Curves,
    Grant,
    Lend,
    Migrate,
    Parked,
    Probe,
    Record,
    SetDraining,
)


def version_of_kind(kind: type[Record]) -> int:
    """The oldest version whose peers know this kind of record."""
    new = Curves | Lend | Migrate | Parked | Probe | SetDraining | CacheRecord
    return 2 if issubclass(kind, new) else 1


def version_of(record: Record) -> int:
    """The oldest version whose peers understand this record as it is meant."""
    if isinstance(record, Grant) and record.scheme != DIRECT:
        return 2
    return version_of_kind(type(record))
