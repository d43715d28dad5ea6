"""Anthropic's Messages: a request as chat asks it, and a chat answer as Anthropic's clients hear it.

Source: https://platform.claude.com/docs/en/api/messages, https://platform.claude.com/docs/en/build-with-claude/streaming
"""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from llmops.errors import LlmopsError
from llmops.protocol import messages_request, sse
from llmops.protocol.blocks import Block, Cutter, Kind, Move, Step
from llmops.protocol.usage import Usage

#: How the wire is named in records.
NAME = "messages"

_STOP_REASONS = {"length": "max_tokens", "tool_calls": "tool_use", "function_call": "tool_use"}
#: Anthropic's ``type`` of an error, by status; others are ``api_error``.
ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


class Messages:
    """One request of the Messages API; a `Translation`."""

    def __init__(self, body: Mapping[str, Any]) -> None:
        self.chat = messages_request.chat(body)
        self.user = messages_request.user(body)
        self._model = str(body.get("model") or "")
        stops = self.chat.get("stop")
        self._stops: Sequence[str] = stops if isinstance(stops, list) else ()

    def telling(self, interaction_id: str) -> "MessagesTelling":
        """Begin the answer."""
        return MessagesTelling(interaction_id, self._model, self._stops)


class MessagesTelling:
    """An answer of the Messages API; a `Telling`.

    Args:
        model: What the caller asked for; named where the answer names none.
        stops: The stop sequences asked for.
    """

    def __init__(self, interaction_id: str, model: str, stops: Sequence[str]) -> None:
        self._id = f"msg_{interaction_id}"
        self._cutter = Cutter(interaction_id)
        self._model = model
        self._stops = stops
        self._begun = False

    def whole(self, response: Mapping[str, Any]) -> None:
        """Take a whole answer."""
        self._cutter.whole(response)

    def take(self, chunk: Mapping[str, Any]) -> bytes:
        """The events of one chunk."""
        steps = list(self._cutter.take(chunk))
        return self._begin() + b"".join(_step(step) for step in steps)

    def end(self, usage: Usage | None) -> bytes:
        """The events of the end, with the tokens."""
        rest = b"".join(_step(step) for step in self._cutter.end())
        change = {"delta": self._stopped(), "usage": _usage(usage)}
        return self._begin() + rest + _event("message_delta", change) + _event("message_stop", {})

    def error(self, error: LlmopsError) -> bytes:
        """The event of an answer that broke."""
        return sse.named("error", error_body(error, error.message))

    def document(self, usage: Usage | None, error: LlmopsError | None = None) -> dict[str, Any]:
        """A message, as far as it was told."""
        content = [_block(block) for block in self._cutter.blocks]
        stopped = _NOT_STOPPED if error is not None else self._stopped()
        return {**self._head(), "content": content, **stopped, "usage": _usage(usage)}

    def _begin(self) -> bytes:
        if self._begun:
            return b""
        self._begun = True
        # The tokens of the prompt are known only at the end; clients take them from there.
        message = {**self._head(), "content": [], **_NOT_STOPPED, "usage": _usage(None)}
        return _event("message_start", {"message": message})

    def _head(self) -> dict[str, Any]:
        return {"id": self._id, "type": "message", "role": "assistant", "model": self._cutter.model or self._model}

    def _stopped(self) -> dict[str, str | None]:
        kinds = {block.kind for block in self._cutter.blocks}
        reason, stop = self._cutter.finish_reason, self._cutter.stop
        if Kind.REFUSAL in kinds or reason == "content_filter":
            return {"stop_reason": "refusal", "stop_sequence": None}
        if reason == "stop" and stop in self._stops:
            return {"stop_reason": "stop_sequence", "stop_sequence": stop}
        # Where one tool had to be called, OpenAI ends with "stop".
        named = "tool_use" if Kind.CALL in kinds and reason != "length" else "end_turn"
        return {"stop_reason": _STOP_REASONS.get(reason or "", named), "stop_sequence": None}


_NOT_STOPPED: Mapping[str, str | None] = {"stop_reason": None, "stop_sequence": None}


def error_body(error: LlmopsError, message: str) -> bytes:
    """An error in Anthropic's shape."""
    kind = ERROR_TYPES.get(error.status, "api_error")
    return orjson.dumps({"type": "error", "error": {"type": kind, "message": message}})


def last_user_text(body: Mapping[str, Any]) -> str:
    """The text of the last message of the user that has any; empty where there is none."""
    for message in reversed(_objects(body.get("messages"))):
        if message.get("role") == "user" and (words := _words(message.get("content"))):
            return words
    return ""


def answer_text(response: Mapping[str, Any]) -> str:
    """The text of an answer; empty where it has none (a tool call)."""
    return _words(response.get("content"), "")


def calls(response: Mapping[str, Any]) -> list[dict[str, str]]:
    """Name and arguments, as JSON text, of each tool call of an answer."""
    uses = [block for block in _objects(response.get("content")) if block.get("type") == "tool_use"]
    return [{"name": str(use.get("name")), "arguments": orjson.dumps(use.get("input")).decode()} for use in uses]


def _words(content: Any, between: str = "\n") -> str:
    if isinstance(content, str):
        return content
    texts = (block.get("text") for block in _objects(content))
    return between.join(text for text in texts if isinstance(text, str))


def _objects(value: Any) -> list[Mapping[str, Any]]:
    return [one for one in value if isinstance(one, Mapping)] if isinstance(value, list) else []


def _step(step: Step) -> bytes:
    block = step.block
    if step.move is Move.BEGIN:
        return _event("content_block_start", {"index": block.index, "content_block": _begun(block)})
    if step.move is Move.GROW:
        return _delta(block, _grown(block.kind, step.piece)) if block.kind is not Kind.SEALED else b""
    signed = _delta(block, {"type": "signature_delta", "signature": block.signature}) if block.signature else b""
    return signed + _event("content_block_stop", {"index": block.index})


def _delta(block: Block, grown: Mapping[str, str]) -> bytes:
    return _event("content_block_delta", {"index": block.index, "delta": grown})


def _grown(kind: Kind, piece: str) -> dict[str, str]:
    if kind is Kind.CALL:
        return {"type": "input_json_delta", "partial_json": piece}
    if kind is Kind.REASONING:
        return {"type": "thinking_delta", "thinking": piece}
    return {"type": "text_delta", "text": piece}


def _begun(block: Block) -> dict[str, Any]:
    """A block as its first event shows it: empty, but one that comes whole."""
    if block.kind is Kind.SEALED:
        return _block(block)
    return _shaped(block, "", {}, "")


def _block(block: Block) -> dict[str, Any]:
    return _shaped(block, block.text, block.arguments if block.kind is Kind.CALL else {}, block.signature)


def _shaped(block: Block, text: str, arguments: Any, signature: str) -> dict[str, Any]:
    if block.kind is Kind.CALL:
        return {"type": "tool_use", "id": block.call_id, "name": block.name, "input": arguments}
    if block.kind is Kind.REASONING:
        return {"type": "thinking", "thinking": text, "signature": signature}
    if block.kind is Kind.SEALED:
        return {"type": "redacted_thinking", "data": text}
    return {"type": "text", "text": text}


def _usage(usage: Usage | None) -> dict[str, int]:
    """Tokens as Anthropic counts them: those read from a cache are no part of the others."""
    cached = (usage.cached_tokens if usage else None) or 0
    return {
        "input_tokens": max(0, usage.input_tokens - cached) if usage else 0,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": usage.output_tokens if usage else 0,
    }


def _event(name: str, fields: Mapping[str, Any]) -> bytes:
    return sse.named(name, orjson.dumps({"type": name, **fields}))
