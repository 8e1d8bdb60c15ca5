"""What a transport has moved, for metrics."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Traffic:
    """Operations that ended, and the bytes of those that ended well."""

    operations: int = 0
    bytes: int = 0
    failures: int = 0

    def count(self, num_bytes: int, error: Exception | None) -> None:
        self.operations += 1
        if error is None:
            self.bytes += num_bytes
        else:
            self.failures += 1


@dataclass
class Totals:
    """Since the transport was made. Sends are kept per carrier; a receive belongs to no endpoint,
    so its carrier is unknown, and its bytes are those of the buffer even where the message was
    shorter."""

    sent: dict[str, Traffic] = field(default_factory=dict)
    received: Traffic = field(default_factory=Traffic)

    def by(self, carriers: str) -> Traffic:
        return self.sent.setdefault(carriers, Traffic())

    def bytes_sent(self) -> dict[str, int]:
        return {carriers: traffic.bytes for carriers, traffic in self.sent.items()}
