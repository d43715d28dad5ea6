"""What a failed call of litellm is answered with: the vendor's own status and words, without the call's secrets.

litellm's exceptions are not enough: a refused connection and a reset are "status 500" there, a time limit is 408. What
really happened stands in the chain of causes, as httpx said it. Nothing here imports litellm.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from llmops.errors import LlmopsError
from llmops.providers.confinement import Refused
from llmops.providers.veil import Veil

#: Arguments of a call that are no secret.
_PUBLIC = frozenset({"model", "api_base", "aws_region_name", "vertex_project", "vertex_location"})
_TYPES: Mapping[int, str] = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    504: "timeout_error",
}
#: What litellm writes before the vendor's words.
_PREFIXES = re.compile(r"^(litellm\.\w+: *|\w+(Exception|Error) - *)+")


@dataclass(frozen=True, slots=True)
class Failure:
    """An error as it is answered.

    Attributes:
        status: The vendor's; 502 where it could not be reached or made no sense, 504 where it took too long.
        retry_after_s: The vendor's ``Retry-After``; None where it sent none, or no number.
    """

    status: int
    message: str
    retry_after_s: int | None = None

    @property
    def document(self) -> dict[str, Any]:
        """The body, in OpenAI's shape."""
        kind = _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "api_error")
        return {"error": {"message": self.message, "type": kind, "code": self.status}}

    @property
    def headers(self) -> dict[str, str]:
        """The headers that go with it."""
        return {} if self.retry_after_s is None else {"retry-after": str(self.retry_after_s)}


def explain(err: Exception, arguments: Mapping[str, Any]) -> Failure:
    """Say what went wrong.

    Args:
        arguments: The call's, so that their secrets can be taken out of the vendor's words.
    """
    if isinstance(err, LlmopsError):
        return Failure(err.status, err.message, err.retry_after_s)
    refused = next((cause for cause in _chain(err) if isinstance(cause, Refused)), None)
    if refused is not None:
        return Failure(502, str(refused))
    status, response = _status(err)
    return Failure(status, Veil(_secrets(arguments)).hide_text(_words(err)), _retry_after_s(response))


def _chain(err: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    cause: BaseException | None = err
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__


def _status(err: Exception) -> tuple[int, httpx.Response | None]:
    for cause in _chain(err):
        if isinstance(cause, httpx.HTTPStatusError):
            return cause.response.status_code, cause.response
        if isinstance(cause, httpx.TimeoutException):
            return 504, None
        if isinstance(cause, httpx.TransportError):
            return 502, None
    status = getattr(err, "status_code", None)
    # litellm's 500 without a response of the vendor is its own failure to make sense of one.
    return (status, None) if isinstance(status, int) and 400 <= status < 500 and status != 408 else (502, None)


def _words(err: Exception) -> str:
    text = _PREFIXES.sub("", str(getattr(err, "original_exception", None) or err))
    found = re.search(r"\{.*\}", text, re.DOTALL)
    try:
        document = json.loads(found[0]) if found else {}
    except ValueError:
        document = {}
    error = document.get("error", document)
    message = error.get("message") if isinstance(error, dict) else error
    if isinstance(message, str) and message:
        return message
    return text.split("\n", 1)[0]  # Below it litellm writes its stack trace, and how to report it.


def _secrets(arguments: Mapping[str, Any]) -> Iterator[str]:
    for name, value in arguments.items():
        if isinstance(value, dict):
            yield json.dumps(value)
        elif name not in _PUBLIC and isinstance(value, str) and value:
            yield value


def _retry_after_s(response: httpx.Response | None) -> int | None:
    value = response.headers.get("retry-after", "") if response is not None else ""
    return int(value) if value.isdigit() else None
