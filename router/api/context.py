"""What every handler needs, in one value under `app[API]`."""

from __future__ import annotations

from dataclasses import dataclass

from aiohttp import web

from baton.protocol.errors import BatonError
from baton.protocol.records import ModelCard
from baton.router.api.service import Pools, Service
from baton.router.metrics import RouterMetrics
from baton.router.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Api:
    service: Service
    tokenizer: Tokenizer
    metrics: RouterMetrics
    model_name: str
    """The name that requests use."""
    api_key: str | None
    created: int
    """Unix time at which the model was first served."""
    pools: Pools | None = None

    def card(self) -> ModelCard:
        """Raises BatonError(no_worker) until a worker has joined."""
        card = self.service.model
        if card is None:
            raise BatonError("no_worker", "no worker has joined yet; try again", retry_after=1.0)
        return card

    def vocab_size(self) -> int:
        card = self.service.model
        return card.vocab_size if card is not None else self.tokenizer.vocab_size

    def check_model(self, name: str | None) -> None:
        """Raises BatonError(model_not_found) unless `name` is served; None means the served one."""
        if name is not None and name != self.model_name:
            raise BatonError(
                "model_not_found",
                f"the model {name[:200]!r} is not served here; the one that is: "
                f"{self.model_name!r}",
                param="model",
            )


API: web.AppKey[Api] = web.AppKey("api", Api)
