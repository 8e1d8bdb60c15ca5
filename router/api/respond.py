"""Runs a generation and answers with it, whole or as a stream."""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp import web

from baton.protocol.errors import BatonError
from baton.router.api.errors import error_object, internal_error, json_response
from baton.router.api.generation import Choice, Generation
from baton.router.api.schemas import StreamOptions
from baton.router.api.shapes import ChunkWriter, Shape
from baton.router.api.sse import DONE, SseWriter, event
from baton.router.metrics import RequestTimer
from baton.router.text.output import Piece


async def respond_whole(generation: Generation, shape: Shape) -> web.StreamResponse:
    async def consume(choice: Choice, piece: Piece) -> None:
        choice.piece.add(piece)

    with generation:
        generation.start()
        await generation.run(consume)
        body: dict[str, Any] = {
            **shape.head,
            "choices": [shape.choice(choice) for choice in generation.choices],
            "usage": generation.usage(),
        }
    return json_response(body)


async def respond_stream(
    request: web.Request,
    generation: Generation,
    shape: Shape,
    timer: RequestTimer,
    options: StreamOptions,
) -> web.StreamResponse:
    """Headers are sent with the first token, so that a failure before it is a proper status
    (raises BatonError); a later failure is an error event, no [DONE], and the end of the
    stream."""
    include_usage = bool(options.include_usage)
    continuous = include_usage and bool(options.continuous_usage_stats)
    with generation:
        generation.start()
        writer = SseWriter(request)
        streams = {
            choice.index: _ChoiceStream(
                ChunkWriter(
                    shape,
                    choice.index,
                    include_usage=include_usage,
                    usage=generation.usage if continuous else None,
                ),
                writer,
            )
            for choice in generation.choices
        }

        async def consume(choice: Choice, piece: Piece) -> None:
            if not writer.opened:
                await writer.open()
            streams[choice.index].add(piece)
            if writer.congested:
                await writer.drain()

        try:
            await generation.run(consume)
        except Exception as error:
            if not writer.opened or isinstance(error, ConnectionError):
                raise
            told = error if isinstance(error, BatonError) else internal_error(request)
            timer.outcome = "failed"
            for stream in streams.values():
                stream.flush()
            writer.send(event(error_object(told)))
            return await writer.close()
        if include_usage:
            writer.send(event({**shape.chunk_head, "choices": [], "usage": generation.usage()}))
        writer.send(DONE)
        return await writer.close()


class _ChoiceStream:
    """One choice's pieces on their way to the writer. Pieces that arrive within one pass of the
    event loop leave as one event: it costs less when the router is behind, and nothing when it
    is not."""

    def __init__(self, chunks: ChunkWriter, writer: SseWriter) -> None:
        self._chunks = chunks
        self._writer = writer
        self._pending: Piece | None = None
        self._loop = asyncio.get_running_loop()

    def add(self, piece: Piece) -> None:
        """Takes the piece over."""
        if self._pending is None:
            self._pending = piece
            if piece.finish_reason is None:
                self._loop.call_soon(self.flush)
        else:
            self._pending.add(piece)
        if piece.finish_reason is not None:
            self.flush()

    def flush(self) -> None:
        piece, self._pending = self._pending, None
        if piece is not None:
            events = self._chunks.render(piece)
            if events:
                self._writer.send(events)
