"""When a request's turn comes, and where it was before: what clients say beside the request itself.

| said with | means |
|---|---|
| `service_tier`: `auto`, `default` | lane interactive |
| `service_tier`: `priority` | before the others of that lane |
| `service_tier`: `flex` | lane batch |
| header `x-baton-lane` | a lane of this server by its name; counts more than the tier |
| `prompt_cache_key`, header `x-baton-session` | requests that belong together: to the same |
|                                              | workers, where that costs nothing |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from baton.protocol.errors import BatonError
from baton.router.api.context import Api
from baton.router.api.schemas import MAX_LABEL, GenerationRequest

LANE, SESSION = "x-baton-lane", "x-baton-session"


@dataclass(frozen=True, slots=True)
class Order:
    lane: str
    priority: int = 0
    session: str = ""


def order_of(api: Api, headers: Mapping[str, str], body: GenerationRequest) -> Order:
    """Raises BatonError(invalid_value): a lane that is not there, a header that is too long."""
    lane, priority = api.service.lanes.choose(headers.get(LANE), body.service_tier)
    session = body.prompt_cache_key or headers.get(SESSION, "")
    if len(session) > MAX_LABEL:
        raise BatonError(
            "invalid_value", f"the {SESSION} header must have at most {MAX_LABEL} characters",
            param=SESSION,
        )
    if session and body.cache_salt:
        session = f"{body.cache_salt}/{session}"
    return Order(lane.name, priority, session)
