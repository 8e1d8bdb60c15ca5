"""The decision of a request, as response headers for those who ask (`x-baton-explain: 1`).

Of the first choice, as it is when the headers are sent: with the first token of a stream, at the
end of a whole response.
"""

from __future__ import annotations

from aiohttp import web

from baton.router.api.generation import Generation
from baton.router.policy import Decision

ASK = "x-baton-explain"
GENERATION = web.RequestKey("generation", Generation)


async def add_decision_headers(request: web.Request, response: web.StreamResponse) -> None:
    """An `on_response_prepare` signal."""
    generation = request.get(GENERATION)
    if generation is None or not _asked(request):
        return
    for choice in generation.choices[:1]:
        if choice.flight.decision is not None:
            response.headers.update(_headers(choice.flight.decision))


def _asked(request: web.Request) -> bool:
    return request.headers.get(ASK, "").strip().lower() not in ("", "0", "false", "no")


def _headers(decision: Decision) -> dict[str, str]:
    headers = {
        "x-baton-route": decision.route,
        "x-baton-reason": decision.reason,
        "x-baton-decode-worker": decision.decode.node_id,
    }
    if decision.prefill is not None:
        headers["x-baton-prefill-worker"] = decision.prefill.node_id
    prediction = decision.prediction
    if prediction is not None and prediction.measured:
        headers["x-baton-predicted-ttft-ms"] = f"{prediction.ttft * 1e3:.1f}"
        headers["x-baton-predicted-itl-ms"] = f"{prediction.itl * 1e3:.2f}"
    return headers
