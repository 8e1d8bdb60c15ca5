"""The decode stage: admission, continuous batching, chunked-prefill fallback."""

from baton.decode.stage import DecodeStage

__all__ = ["DecodeStage"]
