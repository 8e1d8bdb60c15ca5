"""`baton bench serve URL`: load on any OpenAI-compatible server, and what it did with it."""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import signal
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from baton.bench.durations import duration, share
from baton.bench.results import add_json, chosen, deliver, found
from baton.bench.serve.asking import Asking, Server, find, session
from baton.bench.serve.client import Cancels
from baton.bench.serve.events import Tokenize, prompt_tokens
from baton.bench.serve.load import add_load, check, load_of
from baton.bench.serve.progress import Progress
from baton.bench.serve.report import show, warnings
from baton.bench.serve.run import PATIENCE, serve
from baton.bench.serve.served import Served
from baton.bench.serve.server_side import beside
from baton.bench.serve.text import Writer, corpus, measured
from baton.bench.serve.traced import Omitted
from baton.bench.workloads.named import listed
from baton.protocol.errors import ConfigError

_STOPPED = 130
"""Exit code, as of what Ctrl-C ends."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code. Raises ConfigError."""
    options = _options(arguments)
    if options.list:
        print(f"Workloads:\n{listed()}")
        return 0
    if options.check_client:
        from baton.bench.serve.limit import measure_limit

        return measure_limit(options.json)
    if options.url is None:
        raise ConfigError("give the URL of a server, such as http://127.0.0.1:8000")
    check(options)
    omitted, noted = Omitted(), list[str]()
    served = _run(lambda: _serve(options, omitted, noted))
    figures = served.summary(
        e2e=options.e2e, workers=options.workers, cost_per_hour=options.cost_per_hour
    )
    if options.trace is not None:
        figures["trace"] = omitted.to_dict()
    noted += [*omitted.warnings(), *warnings(served, figures)]
    side = served.server_side()
    result = found(
        "serve",
        settings=chosen(options, "api_key", "wait", "quiet", "list", "check_client"),
        metrics={**figures, "warnings": noted, "server": {
            "model": served.server.model, "waited_seconds": round(served.server.waited, 3),
            "first_ms": round(1e3 * served.server.first, 2), **side,
            "beside": beside(figures, side.get("times", {})),
        }},
        ran=_ran(options.api_key),
    )
    if not deliver(result, options.json):
        show(served, figures, noted)
    return _STOPPED if served.stopped else 0


def _ran(api_key: str | None) -> dict[str, Any]:
    """What it ran on, without the key: results are for others to read."""
    from baton.bench.machine import describe

    ran = describe()
    return {**ran, "command": ran["command"].replace(api_key, "KEY")} if api_key else ran


def _run(work: Callable[[], Coroutine[Any, Any, Served]]) -> Served:
    import uvloop

    # What is there stays; a collection in mid-run would delay time stamps by milliseconds.
    usual = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    try:
        return uvloop.run(work())
    finally:
        gc.set_threshold(*usual)
        gc.unfreeze()


async def _serve(
    options: argparse.Namespace, omitted: Omitted, noted: list[str]
) -> Served:
    """`omitted` and `noted` say afterwards what was not as asked for."""
    asking = Asking(style=_style(options), api_key=options.api_key, scripted=options.scripted,
                    extra=_extra(options.extra))
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, _stopper(stop))
    tokenize = _tokenizer(options.tokenizer)
    server = await find(options.url, asking, options.model, options.wait)
    write = None
    if asking.style != "ids":
        write = await _writer(server, options.text, tokenize)
        if write.guessed:
            noted.append("the server does not say how many tokens a text has: prompts have as many "
                         "as asked for only if a token has four characters")
    stream = load_of(options, server.max_model_len, omitted)
    async with Progress(not options.quiet) as progress:
        return await serve(
            options.url, stream, warmup=options.warmup, seconds=options.duration,
            concurrency=options.concurrency, server=server, write=write,
            cancels=Cancels(options.cancel, options.seed), patience=options.timeout,
            drain=options.drain, tokenize=tokenize, stop=stop,
            watch=progress.watch,
        )


def _stopper(stop: asyncio.Event) -> Callable[[], None]:
    """The first Ctrl-C ends the run with its report, the second ends at once."""
    def again() -> None:
        if stop.is_set():
            raise SystemExit(_STOPPED)
        stop.set()

    return again


def _style(options: argparse.Namespace) -> str:
    if options.text is not None and not options.completions:
        return "chat"
    return "ids" if options.text is None else "text"


async def _writer(server: Server, text: str, tokenize: Tokenize | None) -> Writer:
    """Text that has about as many tokens as are asked for, by what the server says of two."""
    words = corpus(Path(text) if text else None)

    async def tokens_of(prompt: str) -> int | None:
        chat = server.asking.style == "chat"
        body = {"model": server.model, "max_tokens": 1, "temperature": 0,
                **({"messages": [{"role": "user", "content": prompt}]} if chat
                   else {"prompt": prompt})}
        async with session(120.0) as http, http.post(
            server.path, json=body, headers=server.asking.headers()
        ) as reply:
            content = await reply.read()
        told = prompt_tokens(content) if reply.status == 200 else None
        return told if told is not None or tokenize is None else tokenize(prompt)

    return await measured(words, tokens_of)


def _tokenizer(path: str | None) -> Tokenize | None:
    if path is None:
        return None
    from baton.engine.model.source import resolve_model
    from baton.engine.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(resolve_model(path))
    return lambda text: len(tokenizer.encode(text))


def _extra(text: str | None) -> dict[str, object]:
    try:
        fields = json.loads(text or "{}")
    except ValueError as error:
        raise ConfigError(f"--extra is no JSON: {error}") from error
    if not isinstance(fields, dict):
        raise ConfigError("--extra must be a JSON object, such as '{\"top_k\": 1}'")
    return fields


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="baton bench serve", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("url", nargs="?", help="of the server, with or without /v1")
    parser.add_argument("--list", action="store_true", help="the named workloads")
    parser.add_argument("--check-client", action="store_true",
                        help="what this client alone can take, from a server that does nothing")
    add_load(parser)
    how = parser.add_argument_group("how")
    how.add_argument("--model", help="its name; default: the first one served")
    how.add_argument("--api-key", default=os.environ.get("BATON_API_KEY"),
                     help="default: BATON_API_KEY of the environment")
    how.add_argument("--text", nargs="?", const="", default=None, metavar="FILE",
                     help="real text, through chat, in place of token ids")
    how.add_argument("--completions", action="store_true", help="text to be continued, no chat")
    how.add_argument("--scripted", action="store_true",
                     help="for paced workers: answers end when the seed says")
    how.add_argument("--extra", metavar="JSON", help="more fields of each request")
    how.add_argument("--cancel", type=share, default=0.0, metavar="SHARE",
                     help="of requests that their client gives up, such as 5%%")
    how.add_argument("--timeout", type=duration, default=PATIENCE, metavar="DURATION",
                     help="of one request")
    how.add_argument("--drain", type=duration, default=None, metavar="DURATION",
                     help="after the load ends, until what runs counts as unfinished")
    how.add_argument("--wait", type=duration, default=0.0, metavar="DURATION",
                     help="for the server to be there; how long it took is reported")
    how.add_argument("--tokenizer", metavar="MODEL",
                     help="counts tokens where the server does not tell")
    judged = parser.add_argument_group("how it is judged")
    judged.add_argument("--ttft", type=duration, default=None, metavar="DURATION")
    judged.add_argument("--itl", type=duration, default=None, metavar="DURATION",
                        help="on average over a request")
    judged.add_argument("--e2e", type=duration, default=None, metavar="DURATION")
    judged.add_argument("--workers", type=int, help="among whom tokens are divided")
    judged.add_argument("--cost-per-hour", type=float)
    parser.add_argument("--quiet", action="store_true", help="no progress")
    add_json(parser)
    return parser.parse_args(None if arguments is None else list(arguments))
