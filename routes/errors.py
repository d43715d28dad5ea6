"""Errors as bodies: one shape for Databricks and MLflow routes, one for OpenAI's, one for Anthropic's."""

import orjson

from llmops.errors import LlmopsError
from llmops.protocol import messages

Headers = list[tuple[bytes, bytes]]

#: What makes Databricks' SDK repeat a request for minutes, and how it is said instead: it compares letter by letter.
#: Source: ../shared/reference/databricks_contract.md 5.4
_REPEATED = {
    "Unexpected error": "Unforeseen error",
    "Please try again later or try a faster operation.": "Try again later, or a faster operation.",
    "RPC token bucket limit has been exceeded": "RPC token bucket is empty",
    "ClusterNotReadyException": "ClusterNotReady exception",
    "Unknown worker environment": "Worker environment not known",
    "There is no worker environment with id": "No worker environment has the id",
    "does not have any associated worker environments": "has no associated worker environments",
    "UnknownWorkerEnvironmentException": "UnknownWorkerEnvironment exception",
}

#: OpenAI's ``type`` by status; others are ``api_error``.
_OPENAI_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


def body(error: LlmopsError, path: str) -> bytes:
    """The body of an error answer, in the shape of the route it goes back on.

    Args:
        path: Of the request; what begins with ``/v1/messages`` speaks Anthropic's shape, other ``/v1/`` OpenAI's.
    """
    message = _calm(error.message)
    if path.startswith("/v1/messages"):
        return messages.error_body(error, message)
    if path.startswith("/v1/"):
        kind = _OPENAI_TYPES.get(error.status, "api_error")
        code = error.error_code.lower()
        return orjson.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}})
    return orjson.dumps({"error_code": error.error_code, "message": message})


def _calm(message: str) -> str:
    """A message without the words that make Databricks' SDK repeat a request for minutes, whatever its status."""
    for words, others in _REPEATED.items():
        message = message.replace(words, others)
    return message


def headers(error: LlmopsError) -> Headers:
    """The headers of an error answer: its type, when to come again, and the interaction it ended."""
    out = [(b"content-type", b"application/json"), *error.headers]
    if error.retry_after_s is not None:
        out.append((b"retry-after", str(error.retry_after_s).encode()))
    if error.status == 401:
        out.append((b"www-authenticate", b"Bearer"))
    return out
