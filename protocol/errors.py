"""One error type for everything that ends a request or a command with a reason.

`code` is the machine-readable cause, and the HTTP status follows from it, so that the same
failure reads the same wherever it happened.
"""

from __future__ import annotations

STATUS_OF_CODE = {
    "invalid_value": 400,
    "invalid_json": 400,
    "unsupported_parameter": 400,
    "unknown_parameter": 400,
    "missing_parameter": 400,
    "context_length_exceeded": 400,
    "invalid_api_key": 401,
    "not_found": 404,
    "model_not_found": 404,
    "method_not_allowed": 405,
    "body_too_large": 413,
    "body_too_slow": 408,
    "queue_full": 429,
    "overloaded": 429,
    "internal_error": 500,
    "no_worker": 503,
    "worker_lost": 503,
    "too_many_failures": 503,
    "shutting_down": 503,
    "deadline_exceeded": 504,
}

_TYPE_OF_STATUS = {
    401: "authentication_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


class BatonError(Exception):
    """A failure with a cause that can be told to the user.

    `message` names what was wrong and what would be right; `param` the offending field, if any;
    `retry_after` the seconds after which a retry may succeed, if known.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        param: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param
        self.retry_after = retry_after

    @property
    def status(self) -> int:
        """HTTP status."""
        return STATUS_OF_CODE.get(self.code, 500)

    @property
    def type(self) -> str:
        """The `type` field of OpenAI's error shape."""
        if self.status in _TYPE_OF_STATUS:
            return _TYPE_OF_STATUS[self.status]
        return "invalid_request_error" if self.status < 500 else "server_error"


class ConfigError(Exception):
    """A command cannot start as asked. The message is one line for the terminal."""
