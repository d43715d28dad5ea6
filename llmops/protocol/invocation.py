"""An invocation: the body a caller sent, with our own fields taken out of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from llmops.errors import BadRequest

#: Larger bodies are refused, as Databricks refuses them.
MAX_BODY_BYTES = 16 * 1024 * 1024

_DEEPEST = 200

#: Where a request goes, and with whose key, is the endpoint's business: a body that names it is refused.
ROUTING_FIELDS = frozenset(
    {"api_base", "api_key", "api_type", "api_version", "base_url", "custom_llm_provider", "extra_headers", "headers"}
    | {"azure_ad_token", "organization", "fallbacks", "mock_response", "model_list", "proxy", "client", "ssl_verify"}
)
_ROUTING_PREFIXES = ("aws_", "azure_", "litellm_", "vertex_")

#: What a caller may set of a model's behaviour and what is worth searching runs by.
_SAMPLING = (
    *("temperature", "top_p", "top_k", "n", "max_tokens", "max_completion_tokens", "stop", "seed", "dimensions"),
    *("presence_penalty", "frequency_penalty", "reasoning_effort", "tool_choice", "response_format"),
)


@dataclass(frozen=True, slots=True)
class Invocation:
    """A parsed body.

    Attributes:
        body: What goes to the model: without ``client_request_id``, ``usage_context`` and ``databricks_options``,
            ``extra_params`` merged in.
        stream: Whether the caller wants a stream.
        wants_usage: Whether the caller asked for usage in the stream.
        session: From ``usage_context.session_id``, else ``metadata.session_id``.
    """

    body: Mapping[str, Any]
    stream: bool
    wants_usage: bool
    model: str | None
    client_request_id: str | None
    usage_context: dict[str, str]
    user: str | None
    session: str | None

    @property
    def sampling(self) -> dict[str, Any]:
        """The sampling parameters the caller sent."""
        return {key: self.body[key] for key in _SAMPLING if key in self.body}


def read(raw: bytes) -> Invocation:
    """Parse the body of an invocation.

    Raises:
        BadRequest: Not a JSON object, a field of ours with a wrong type, or a field that would choose where it goes.
    """
    body = _object(raw)
    for key in body:
        if _routes(key):
            raise BadRequest(f"'{key}' may not be sent: where a request goes is set by the endpoint, not by a request")
    stream = body.get("stream") or False
    if not isinstance(stream, bool):
        raise BadRequest("'stream' must be true or false")
    options = body.get("stream_options")
    context = _mapping(body.pop("usage_context", None), "usage_context")
    # `mlflow.genai.to_predict_fn` sends it to every endpoint, to ask agents for their trace.
    body.pop("databricks_options", None)
    metadata = body.get("metadata")
    session = context.get("session_id") or (metadata.get("session_id") if isinstance(metadata, dict) else None)
    return Invocation(
        client_request_id=_text(body.pop("client_request_id", None), "client_request_id"),
        usage_context={str(key): str(value) for key, value in context.items()},
        stream=stream,
        wants_usage=isinstance(options, dict) and options.get("include_usage") is True,
        model=_text(body.get("model"), "model"),
        user=_text(body.get("user"), "user"),
        session=None if session is None else str(session),
        body=body,
    )


def shown(raw: bytes) -> bytes:
    """A body that `read` refused, as it may be written down: what would choose where it goes may be a key."""
    try:
        body = orjson.loads(raw)
    except ValueError:
        return raw
    parts = [body, body.get("extra_params")] if isinstance(body, dict) else []
    found = [(part, key) for part in parts if isinstance(part, dict) for key in part if _routes(key)]
    for part, key in found:
        part[key] = "***"
    try:
        return orjson.dumps(body) if found else raw
    except TypeError:  # It is nested more deeply than can be written.
        return b""


def _routes(key: str) -> bool:
    return key in ROUTING_FIELDS or key.startswith(_ROUTING_PREFIXES)


def _object(raw: bytes) -> dict[str, Any]:
    if len(raw) > MAX_BODY_BYTES:
        raise BadRequest(f"the body is {len(raw)} bytes; at most {MAX_BODY_BYTES} (16 MB) are taken")
    try:
        body = orjson.loads(raw)
    except ValueError as err:
        raise BadRequest(f"the body is not JSON: {err}") from None
    if not isinstance(body, dict):
        raise BadRequest("the body must be a JSON object")
    if raw.count(b"{") + raw.count(b"[") > _DEEPEST:
        _refuse_depth(body)
    if "extra_params" in body:
        body.update(_mapping(body.pop("extra_params"), "extra_params"))
    return body


def _refuse_depth(body: dict[str, Any]) -> None:
    try:
        orjson.dumps([[[[body]]]])  # The record wraps it, and must be written as JSON too.
    except TypeError:
        raise BadRequest("the body is nested too deeply; at most 250 levels are taken") from None


def _mapping(value: Any, field: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise BadRequest(f"'{field}' must be an object")
    return value


def _text(value: Any, field: str) -> str | None:
    if value is None or isinstance(value, str):
        return value
    raise BadRequest(f"'{field}' must be a string")
