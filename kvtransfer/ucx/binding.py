"""The only file that touches the UCX binding, which is a private module of `ucxx` (0.52).

What is private is `ucxx._lib.libucxx`; from the public C interface of libucp comes what the
binding lacks: a query for what carries an endpoint, and messages of scattered memory
(`scattered.py`). Options are passed as a dict, and what importing
`ucxx` writes into the environment is taken back: it would reach every child process, and UCX
itself has read its environment by then. One thing UCX takes from the environment alone, while it
is loaded: where its log goes. That is stdout unless said otherwise, and stdout is not ours to use.

Nothing here blocks. Nothing here destroys an object that UCX may still be using: dropping the
last reference to a worker waits for peers, so `keep_until_exit` exists.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Mapping
from typing import Any

from baton.kvtransfer.transport import Rows
from baton.kvtransfer.ucx import library, scattered

_environment = {name: value for name, value in os.environ.items() if name.startswith("UCX_")}
os.environ.setdefault("UCX_LOG_FILE", "stderr")
os.environ.setdefault("UCX_MEMTYPE_CACHE", "n")  # as ucxx does before it loads UCX
library.load()

from ucxx._lib import libucxx as _ucxx  # type: ignore[import-untyped]  # noqa: E402
from ucxx._lib.arr import Array  # type: ignore[import-untyped]  # noqa: E402

for _name in [name for name in os.environ if name.startswith("UCX_")]:
    if _name not in _environment:
        del os.environ[_name]

VERSION: str = ".".join(str(part) for part in _ucxx.get_ucx_version())
"""Of libucx. Peers on another version may read each other's addresses wrongly."""

Request = Any
"""Has `completed: bool`; it is read once for each operation and pass, so it is not wrapped."""

_make_tag = _ucxx.UCXXTag
_WHOLE_TAG = _ucxx.UCXXTagMaskFull
_RESET = (
    _ucxx.UCXConnectionResetError,
    _ucxx.UCXEndpointTimeoutError,
    _ucxx.UCXNotConnectedError,
    _ucxx.UCXUnreachableError,
)


def view(buffer: Any) -> Any:
    """What `send` and `receive` take. Raises ValueError unless `buffer` is contiguous memory, or
    rows."""
    if isinstance(buffer, Rows):
        return buffer
    try:
        array = Array(buffer)
    except TypeError as error:
        raise ValueError(f"not a buffer: {error}") from error
    if array.nbytes and not array.c_contiguous:
        raise ValueError("a buffer must be contiguous")
    return array


def outcome(request: Request) -> Exception | None:
    """How a completed request ended. To be asked once."""
    if isinstance(request, scattered.Request):
        return request.outcome()
    try:
        request.check_error()
    except _RESET as error:
        return ConnectionResetError(str(error) or type(error).__name__)
    except Exception as error:
        return OSError(f"{type(error).__name__}: {error}")
    return None


class Endpoint:
    """One way to one worker."""

    def __init__(self, worker: Any, address: bytes, *, error_handling: bool) -> None:
        self._error_handling = error_handling
        parsed = _ucxx.UCXAddress.create_from_buffer(address)
        self._endpoint = _ucxx.UCXEndpoint.create_from_worker_address(
            worker, parsed, error_handling
        )
        self.send_array = self._endpoint.tag_send

    def send(self, array: Any, tag: int) -> Request:
        if isinstance(array, Rows):
            return scattered.send(self._endpoint.handle, array, tag)
        return self.send_array(array, _make_tag(tag))

    def start_close(self) -> Request | None:
        """None if there is nothing left to close."""
        # Closing an endpoint that has failed already takes the process down.
        if self._error_handling and not self._endpoint.alive:
            return None
        return self._endpoint.close()

    def lanes(self) -> list[str]:
        """Names of the UCX transports that this endpoint may use, the one for messages first."""
        return _query_transports(self._endpoint.handle)


class Worker:
    """One UCX context and its one worker. Used from one thread only. Raises OSError when UCX
    cannot start."""

    def __init__(self, options: Mapping[str, str]) -> None:
        features = (_ucxx.Feature.TAG, _ucxx.Feature.WAKEUP)
        try:
            self._context = _ucxx.UCXContext(dict(options), feature_flags=features)
            self._worker = _ucxx.UCXWorker(
                self._context, enable_delayed_submission=False, enable_python_future=False
            )
            self._worker.init_blocking_progress_mode()
        except Exception as error:
            raise OSError(f"UCX cannot start: {type(error).__name__}: {error}") from error
        self.address: bytes = self._worker.address.tobytes()
        self.event_fd: int = self._worker.epoll_file_descriptor
        self.progress_once = self._worker.progress_once
        """Does a bounded piece of work; False when there was none."""
        self.arm = self._worker.arm
        """True when `event_fd` will become readable on the next event; False when there may be
        work right now."""

    def receive(self, array: Any, tag: int) -> Request:
        if isinstance(array, Rows):
            return scattered.receive(self._worker.handle, array, tag)
        return self._worker.tag_recv(array, _make_tag(tag), _WHOLE_TAG)

    def has_arrived(self, tag: int) -> bool:
        """A message with this tag is here, or announced, and no receive has taken it."""
        return bool(self._worker.tag_probe(_make_tag(tag), _WHOLE_TAG).matched)

    def connect(self, address: bytes, *, error_handling: bool) -> Endpoint:
        """Raises ConnectionError. `address` must be what a worker of this version gave: UCX
        aborts the process on anything else."""
        try:
            return Endpoint(self._worker, address, error_handling=error_handling)
        except Exception as error:
            raise ConnectionError(f"{type(error).__name__}: {error}") from error

    def devices(self) -> list[str]:
        """What UCX found on this machine, such as "tcp/eth0" or "posix/memory"."""
        lines = [line.split() for line in self._context.info.splitlines()]
        return [words[-1] for words in lines if words[1:2] == ["resource"]]


_kept: list[Any] = []


def keep_until_exit(*objects: Any) -> None:
    """Never destroy these, not even while the interpreter shuts down: UCX would wait for peers
    that may never answer. The operating system takes it all back."""
    _kept.extend(objects)
    if len(_kept) == len(objects):
        # The list itself must survive the clearing of module dictionaries.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(_kept))


# ucp_ep_query (ucp.h), whose structures grow only at the end.
_FIELD_TRANSPORTS = 1 << 3
_MAX_LANES = 16


class _Entry(ctypes.Structure):
    _fields_ = [("transport", ctypes.c_char_p), ("device", ctypes.c_char_p)]


class _Attributes(ctypes.Structure):
    _fields_ = [
        ("field_mask", ctypes.c_uint64),
        ("name", ctypes.c_char * 32),
        ("local_sockaddr", ctypes.c_char * 128),
        ("remote_sockaddr", ctypes.c_char * 128),
        ("entries", ctypes.POINTER(_Entry)),
        ("num_entries", ctypes.c_uint),
        ("entry_size", ctypes.c_size_t),
        ("user_data", ctypes.c_void_p),
    ]


@functools.cache
def _ep_query() -> Any:
    # The wheel's libucp is loaded by now; its name finds that very copy.
    query = ctypes.CDLL("libucp.so.0").ucp_ep_query
    query.argtypes = [ctypes.c_void_p, ctypes.POINTER(_Attributes)]
    query.restype = ctypes.c_int8
    return query


def _query_transports(handle: int) -> list[str]:
    entries = (_Entry * _MAX_LANES)()
    attributes = _Attributes(
        field_mask=_FIELD_TRANSPORTS,
        entries=entries,
        num_entries=_MAX_LANES,
        entry_size=ctypes.sizeof(_Entry),
    )
    status = _ep_query()(handle, ctypes.byref(attributes))
    if status != 0:
        raise ConnectionError(f"ucp_ep_query: status {status}")
    names: list[str] = []
    for index in range(attributes.num_entries):
        name = (entries[index].transport or b"").decode()
        if name and name not in names:
            names.append(name)
    return names
