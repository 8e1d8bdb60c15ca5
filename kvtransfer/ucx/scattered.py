"""Scattered memory as one UCX message, through the public C interface of libucp.

The binding takes contiguous buffers only. UCX itself takes a list of spans, from which it copies
straight into its shared-memory segments, and out of them on the other side: a message of many
small blocks costs two copies, as a contiguous one does, where gathering into a buffer first would
cost four. See ucp_tag_send_nbx in ucp.h; its structures grow only at the end.

Calls that may copy release the interpreter's lock; those that only look keep it, which is cheaper.
"""

from __future__ import annotations

import ctypes
import functools
from array import array
from typing import Any

from baton.kvtransfer.transport import Rows

_FIELD_DATATYPE = 1 << 3
_DATATYPE_IOV = 2
_WHOLE_TAG = (1 << 64) - 1
_IN_PROGRESS = 1
_LAST_ERROR = -100
_RESET = {-6, -24, -25, -80}
"""Unreachable, not connected, connection reset, endpoint timeout."""


class _Param(ctypes.Structure):
    """ucp_request_param_t."""

    _fields_ = [
        ("op_attr_mask", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("request", ctypes.c_void_p),
        ("callback", ctypes.c_void_p),
        ("datatype", ctypes.c_uint64),
        ("user_data", ctypes.c_void_p),
        ("reply_buffer", ctypes.c_void_p),
        ("memory_type", ctypes.c_int),
        ("recv_info", ctypes.c_void_p),
        ("memh", ctypes.c_void_p),
    ]


_PARAM = _Param(op_attr_mask=_FIELD_DATATYPE, datatype=_DATATYPE_IOV)
_PARAM_ADDRESS = ctypes.addressof(_PARAM)


class Request:
    """One operation under way. `address` 0: it was over within the call."""

    __slots__ = ("_address", "_spans", "_status")

    def __init__(self, address: int, spans: Any) -> None:
        self._address = address
        self._spans = spans  # UCX reads the list until the operation is over
        self._status = _IN_PROGRESS if address else 0

    @property
    def completed(self) -> bool:
        if self._status == _IN_PROGRESS:
            self._status = _functions()["check_status"](self._address)
        return bool(self._status != _IN_PROGRESS)

    def outcome(self) -> Exception | None:
        """How the completed request ended. UCX forgets it with the first call."""
        if self._address:
            _functions()["free"](self._address)
            self._address = 0
        return _error(self._status)


def send(endpoint_handle: int, rows: Rows, tag: int) -> Request:
    """Raises OSError when UCX does not take it."""
    spans = _spans(rows)
    call = _functions()["send"]
    return _request(
        call(endpoint_handle, spans.buffer_info()[0], len(rows.indexes), tag, _PARAM_ADDRESS), spans
    )


def receive(worker_handle: int, rows: Rows, tag: int) -> Request:
    """Raises OSError when UCX does not take it."""
    spans = _spans(rows)
    call = _functions()["receive"]
    return _request(
        call(
            worker_handle,
            spans.buffer_info()[0],
            len(rows.indexes),
            tag,
            _WHOLE_TAG,
            _PARAM_ADDRESS,
        ),
        spans,
    )


def _request(pointer: int | None, spans: Any) -> Request:
    address = pointer or 0
    if address >= (1 << 64) + _LAST_ERROR:
        raise _error(address - (1 << 64)) or OSError("UCX status 0 as an error")
    return Request(address, spans)


def _spans(rows: Rows) -> array[int]:
    """ucp_dt_iov_t of each row: address and length."""
    width, step, first = rows.memory.shape[1], rows.memory.strides[0], rows.address
    spans = array("q", [width]) * (2 * len(rows.indexes))
    spans[::2] = array("q", [first + index * step for index in rows.indexes])
    return spans


def _error(status: int) -> Exception | None:
    if status == 0:
        return None
    text = f"UCX status {status}: {_functions()['status_string'](status).decode()}"
    return ConnectionResetError(text) if status in _RESET else OSError(text)


@functools.cache
def _functions() -> dict[str, Any]:
    # The wheel's libraries are loaded by now; their names find those very copies.
    busy, quick = ctypes.CDLL("libucp.so.0"), ctypes.PyDLL("libucp.so.0")
    pointer, size, tag = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint64
    send, receive = busy.ucp_tag_send_nbx, quick.ucp_tag_recv_nbx
    send.argtypes, send.restype = [pointer, pointer, size, tag, pointer], pointer
    receive.argtypes, receive.restype = [pointer, pointer, size, tag, tag, pointer], pointer
    check, free = quick.ucp_request_check_status, quick.ucp_request_free
    check.argtypes, check.restype = [pointer], ctypes.c_int8
    free.argtypes, free.restype = [pointer], None
    string = ctypes.PyDLL("libucs.so.0").ucs_status_string
    string.argtypes, string.restype = [ctypes.c_int8], ctypes.c_char_p
    return {
        "send": send,
        "receive": receive,
        "check_status": check,
        "free": free,
        "status_string": string,
    }
