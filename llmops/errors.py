"""Every error llmops raises, with the HTTP status and Databricks error code it is answered with.

LlmopsError
├── BadRequest                 400  BAD_REQUEST
│   ├── EndpointNotReady       400  BAD_REQUEST              a secret, a key or weights are missing
│   └── InvalidParameter       400  INVALID_PARAMETER_VALUE
│       └── InvalidSpec        400  INVALID_PARAMETER_VALUE  an endpoint document is wrong
├── Unauthenticated            401  UNAUTHENTICATED
├── PermissionDenied           403  PERMISSION_DENIED
├── NotFound                   404  RESOURCE_DOES_NOT_EXIST
│   └── EndpointNotFound       404  ENDPOINT_NOT_FOUND       as an invocation is answered
├── Conflict                   409  RESOURCE_CONFLICT
│   ├── AlreadyExists          409  RESOURCE_ALREADY_EXISTS
│   └── Stale                  409  RESOURCE_CONFLICT        somebody else changed it meanwhile
├── LimitExceeded              429  REQUEST_LIMIT_EXCEEDED   carries Retry-After
├── ClientGone                 499  CANCELLED                recorded, never sent
├── Unavailable                503  TEMPORARILY_UNAVAILABLE  carries Retry-After
├── UpstreamError              ...  the vendor's or the engine's failure
│   ├── UpstreamUnreachable    502  INTERNAL_ERROR
│   ├── UpstreamTimeout        504  DEADLINE_EXCEEDED
│   ├── UpstreamMalformed      502  INTERNAL_ERROR           HTML, a cut body, a lying length
│   └── UpstreamStatus         mirrors the upstream's status
├── SpoolError                 503  TEMPORARILY_UNAVAILABLE
└── CommandError               -    the command line's own: one line and an exit code
    └── ServerRefused          ...  the server answered the command with this status

The statuses 408, 413 and 422 are never answered: MLflow's client repeats them for minutes.
"""

from collections.abc import Mapping
from typing import ClassVar


class LlmopsError(Exception):
    """Something llmops can name.

    Args:
        message: What happened, to what, and what to do. Never a secret, a prompt or a stack trace.
        retry_after_s: Seconds after which the same request may succeed; None where waiting does not help.
    """

    status: int = 500
    error_code: str = "INTERNAL_ERROR"
    #: Whether another served entity may answer what this one could not.
    retryable: bool = False

    def __init__(self, message: str, *, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_s = retry_after_s
        #: Headers that name the interaction this error ended; set by the gateway.
        self.headers: list[tuple[bytes, bytes]] = []


class BadRequest(LlmopsError):
    """The request cannot be served as it is."""

    status = 400
    error_code = "BAD_REQUEST"


class EndpointNotReady(BadRequest):
    """The endpoint waits for something its owner has to do; the message says what.

    400 on purpose: clients repeat a 503 for up to ten minutes, and waiting does not bring a key.
    """

    retryable = True


class InvalidParameter(BadRequest):
    """A field has a value it may not have."""

    error_code = "INVALID_PARAMETER_VALUE"


class InvalidSpec(InvalidParameter):
    """An endpoint document breaks a rule.

    Args:
        message: All that is wrong, one line for each problem.
        problems: The same as a list, one entry for each problem.
    """

    def __init__(self, message: str, problems: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.problems = problems or (message,)


class Unauthenticated(LlmopsError):
    """No credential, or one that is not known."""

    status = 401
    error_code = "UNAUTHENTICATED"


class PermissionDenied(LlmopsError):
    """The caller is known and may not do this."""

    status = 403
    error_code = "PERMISSION_DENIED"


class NotFound(LlmopsError):
    """The thing named does not exist."""

    status = 404
    error_code = "RESOURCE_DOES_NOT_EXIST"


class EndpointNotFound(NotFound):
    """An invocation names an endpoint that does not exist."""

    error_code = "ENDPOINT_NOT_FOUND"


class Conflict(LlmopsError):
    """The change does not fit the state the thing is in."""

    status = 409
    error_code = "RESOURCE_CONFLICT"


class AlreadyExists(Conflict):
    """The name is taken."""

    error_code = "RESOURCE_ALREADY_EXISTS"


class Stale(Conflict):
    """The thing is not as it was read before; the same change of what it is now may succeed."""


class LimitExceeded(LlmopsError):
    """A rate limit of the endpoint is used up; no model was asked."""

    status = 429
    error_code = "REQUEST_LIMIT_EXCEEDED"

    def __init__(self, message: str, *, retry_after_s: int) -> None:
        super().__init__(message, retry_after_s=retry_after_s)


class ClientGone(LlmopsError):
    """The client left before its answer was complete."""

    status = 499
    error_code = "CANCELLED"


class Unavailable(LlmopsError):
    """Not now; soon."""

    status = 503
    error_code = "TEMPORARILY_UNAVAILABLE"
    retryable = True

    def __init__(self, message: str, *, retry_after_s: int = 2) -> None:
        super().__init__(message, retry_after_s=retry_after_s)


class UpstreamError(LlmopsError):
    """The model behind a served entity failed.

    Args:
        message: As for every error; names the served entity, not its key.
        kind: One word for the record: connect, timeout, status, malformed, cut.
    """

    status = 502
    retryable = True
    kind: ClassVar[str] = "status"


class UpstreamUnreachable(UpstreamError):
    """No connection, or it broke before an answer."""

    kind = "connect"


class UpstreamTimeout(UpstreamError):
    """A time limit passed before the answer, or between two pieces of it."""

    status = 504
    error_code = "DEADLINE_EXCEEDED"
    kind = "timeout"


class UpstreamMalformed(UpstreamError):
    """The answer is not what the wire promises: HTML, broken JSON, a stream cut short."""

    kind = "malformed"


class UpstreamStatus(UpstreamError):
    """The upstream answered with an error status, which is mirrored.

    Args:
        upstream_status: Its HTTP status.
        retry_after_s: Its ``Retry-After`` in seconds, where it sent one.

    Source: ../shared/reference/databricks_contract.md 5.1 (which statuses, which codes)
    """

    _CODES: ClassVar[Mapping[int, str]] = {
        400: "BAD_REQUEST",
        403: "PERMISSION_DENIED",
        404: "ENDPOINT_NOT_FOUND",
        409: "RESOURCE_CONFLICT",
        429: "REQUEST_LIMIT_EXCEEDED",
        501: "NOT_IMPLEMENTED",
        503: "TEMPORARILY_UNAVAILABLE",
        504: "DEADLINE_EXCEEDED",
    }

    def __init__(self, message: str, *, upstream_status: int, retry_after_s: int | None = None) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.upstream_status = upstream_status
        self.retryable = upstream_status == 429 or upstream_status >= 500
        self.status = self._mirrored(upstream_status)
        self.error_code = self._CODES.get(self.status, "INTERNAL_ERROR")
        if self.status in (429, 503) and self.retry_after_s is None:
            self.retry_after_s = 2

    @staticmethod
    def _mirrored(status: int) -> int:
        if status == 401:
            return 403  # The endpoint's key was refused, not the caller's.
        if status in (400, 403, 404, 409, 429, 500, 501, 502, 503, 504):
            return status
        return 400 if 400 <= status < 500 else 502


class SpoolError(Unavailable):
    """An interaction cannot be written down."""


class CommandError(LlmopsError):
    """The command line cannot do what it was asked.

    Args:
        exit_code: 1 failed, 2 a difference was found, 64 wrong usage, 69 the server is not reachable.
    """

    def __init__(self, message: str, *, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class ServerRefused(CommandError):
    """The server answered a command with an error status.

    Args:
        interaction_id: What the server recorded it as; None where it was no invocation.
    """

    def __init__(
        self, message: str, *, status: int, retry_after_s: int | None = None, interaction_id: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after_s = retry_after_s
        self.interaction_id = interaction_id
