"""Assembles the HTTP application and serves it."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
import socket
import time

from aiohttp import web

from baton.protocol.errors import BatonError, ConfigError
from baton.router.api import handlers, models, openapi, status, tokens
from baton.router.api.context import API, Api
from baton.router.api.errors import add_common_headers, error_middleware, error_response
from baton.router.api.service import Pools, Service
from baton.router.api.told import add_decision_headers
from baton.router.metrics import RouterMetrics
from baton.router.text.tokenizer import Tokenizer

log = logging.getLogger(__name__)

DEFAULT_MAX_BODY_BYTES = 16 * 1024 * 1024


def create_app(
    service: Service,
    tokenizer: Tokenizer,
    *,
    served_model_name: str,
    metrics: RouterMetrics,
    api_key: str | None = None,
    max_body_bytes: int = DEFAULT_MAX_BODY_BYTES,
    pools: Pools | None = None,
) -> web.Application:
    """The application. With `api_key`, every path but those for probes and scrapers asks for it."""
    app = web.Application(middlewares=[error_middleware], client_max_size=max_body_bytes)
    app[API] = Api(
        service=service,
        tokenizer=tokenizer,
        metrics=metrics,
        model_name=served_model_name,
        api_key=api_key,
        created=int(time.time()),
        pools=pools,
    )
    app.on_response_prepare.append(add_common_headers)
    app.on_response_prepare.append(add_decision_headers)
    app.router.add_post("/v1/completions", handlers.completions)
    app.router.add_post("/v1/chat/completions", handlers.chat_completions)
    app.router.add_get("/v1/models", models.list_models)
    app.router.add_get("/v1/models/{model:.+}", models.get_model)
    app.router.add_post("/tokenize", tokens.tokenize)
    app.router.add_post("/detokenize", tokens.detokenize)
    app.router.add_get("/health", status.health)
    app.router.add_get("/ready", status.ready)
    app.router.add_get("/metrics", status.metrics)
    app.router.add_get("/openapi.json", openapi.openapi)
    app.router.add_get("/admin/workers", status.workers)
    app.router.add_get("/admin/overview", status.overview)
    app.router.add_get("/admin/decisions", status.decisions)
    app.router.add_get("/admin/requests/{request:.+}", status.explain)
    app.router.add_post("/admin/workers/{worker}/drain", status.drain)
    app.router.add_post("/admin/workers/{worker}/undrain", status.undrain)
    app.router.add_post("/admin/workers/{worker}/role", status.role)
    app.router.add_get("/admin/sizing", status.sizing)
    return app


async def serve(
    app: web.Application,
    host: str,
    port: int,
    *,
    sock: socket.socket | None = None,
    shutdown_timeout: float = 5.0,
) -> tuple[web.AppRunner, int]:
    """Starts listening; port 0 takes a free one, and with `sock` it is the one that this socket
    listens on already. Returns the runner, whose `cleanup()` ends it (running requests get
    `shutdown_timeout` seconds), and the port. Raises ConfigError when the address cannot be had;
    nothing is left running then."""
    runner = _Runner(
        app, handler_cancellation=True, access_log=None, shutdown_timeout=shutdown_timeout
    )
    await runner.setup()
    try:
        if sock is not None:
            await web.SockSite(runner, sock).start()
        else:
            await web.TCPSite(runner, host, port).start()
    except OSError as error:
        await runner.cleanup()
        raise ConfigError(_bind_failure(host, port, error)) from error
    return runner, runner.addresses[0][1]


def check_exposure(host: str, api_key: str | None, insecure: bool) -> None:
    """Raises ConfigError for an address beyond loopback without an API key."""
    if api_key or insecure or _is_loopback(host):
        return
    raise ConfigError(
        f"refusing to listen on {host or 'all addresses'} without an API key, because others could "
        "use it: give --api-key, listen on 127.0.0.1, or pass --insecure"
    )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False  # a name may resolve to anything


def _bind_failure(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} on {host} is in use: choose another with --port (0 takes a free one)"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"port {port} on {host} needs privileges that this process lacks: choose another"
    if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
        return f"{host} is no address of this machine: choose another with --host"
    return f"cannot listen on {host}:{port}: {error}"


class _Runner(web.AppRunner):
    """Answers what is no HTTP at all in the shape of every other error."""

    async def _make_server(self) -> web.Server:
        server = await super()._make_server()
        server.__class__ = _Server
        return server


class _Server(web.Server):
    def __call__(self) -> web.RequestHandler:
        return _Protocol(self, loop=asyncio.get_running_loop(), **self._kwargs)


class _Protocol(web.RequestHandler):
    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        # As the base class does it, but what a client did wrong is no traceback in our log.
        if isinstance(exc, ConnectionError):
            log.debug("%s went away: %s", request.remote, exc)
        elif status < 500:
            log.debug("no valid HTTP request from %s: %s", request.remote, message)
        else:
            log.error("a request from %s failed", request.remote, exc_info=exc)
        if request.writer.output_size > 0:
            raise ConnectionError("part of a response is on the wire already")
        code, text = "internal_error", "an internal error; the server's log has the details"
        if status < 500:
            first_line = (message or "").strip().partition("\n")[0]
            code, text = "invalid_value", f"this is no valid HTTP request: {first_line}"
        response = error_response(BatonError(code, text))
        response.set_status(status)
        response.headers["Server"] = "baton"
        response.force_close()
        return response
