"""OpenAI's Responses: a request as chat asks it, and a chat answer as clients of Responses hear it.

Source: https://platform.openai.com/docs/api-reference/responses/object, .../responses-streaming
"""

from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from llmops.errors import LlmopsError
from llmops.protocol import responses_items as items
from llmops.protocol import responses_request, sse
from llmops.protocol.blocks import Cutter, Move, Step
from llmops.protocol.translation import time_of
from llmops.protocol.usage import Usage

#: How the wire is named in records.
NAME = "responses"

#: What an answer says back of its request, and what it says where the request said nothing.
_ECHOED: Mapping[str, Any] = {
    "instructions": None,
    "max_output_tokens": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "temperature": None,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_p": None,
    "truncation": "disabled",
    "reasoning": {"effort": None, "summary": None},
    "user": None,
}
#: Why an answer is not whole, by chat's ``finish_reason``.
_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
_CODES = {400: "invalid_prompt", 429: "rate_limit_exceeded"}


class Responses:
    """One request of the Responses API; a `Translation`."""

    def __init__(self, body: Mapping[str, Any]) -> None:
        self.chat = responses_request.chat(body)
        self.user = ""  # Named as in chat.
        self._body = body

    def telling(self, interaction_id: str) -> "ResponsesTelling":
        """Begin the answer."""
        return ResponsesTelling(interaction_id, self._body)


class ResponsesTelling:
    """An answer of the Responses API; a `Telling`.

    Args:
        body: The caller's.
    """

    def __init__(self, interaction_id: str, body: Mapping[str, Any]) -> None:
        self._name = interaction_id
        self._cutter = Cutter(interaction_id, sealed=False)
        self._body = body
        self._number = 0

    def whole(self, response: Mapping[str, Any]) -> None:
        """Take a whole answer."""
        self._cutter.whole(response)

    def take(self, chunk: Mapping[str, Any]) -> bytes:
        """The events of one chunk."""
        steps = list(self._cutter.take(chunk))
        return self._begin() + b"".join(self._steps(iter(steps)))

    def end(self, usage: Usage | None) -> bytes:
        """The events of the end, with the whole response."""
        begun = self._begin()
        # All of them before any is told: which block is the last is known then.
        rest = b"".join(self._steps(iter(list(self._cutter.end()))))
        whole = self.document(usage)
        return begun + rest + self._event(f"response.{whole['status']}", {"response": whole})

    def error(self, error: LlmopsError) -> bytes:
        """The event of an answer that broke; openai's client raises because of its ``error``."""
        code = error.error_code.lower()
        told = {"message": error.message, "type": "upstream_error", "param": None, "code": code}
        return self._event("error", {"code": code, "message": error.message, "param": None, "error": told})

    def document(self, usage: Usage | None, error: LlmopsError | None = None) -> dict[str, Any]:
        """A response, as far as it was told."""
        cut = error is not None or self._why is not None
        blocks = self._cutter.blocks
        output = [items.whole(block, self._name, cut=cut and block is blocks[-1]) for block in blocks]
        status = "failed" if error is not None else "incomplete" if self._why else "completed"
        failed = None if error is None else {"code": _CODES.get(error.status, "server_error"), "message": error.message}
        return self._response(status, output, failed, usage)

    @property
    def _why(self) -> str | None:
        return _INCOMPLETE.get(self._cutter.finish_reason or "")

    def _begin(self) -> bytes:
        if self._number:
            return b""
        created = {"response": self._response("in_progress", [], None, None)}
        return self._event("response.created", created) + self._event("response.in_progress", created)

    def _response(self, status: str, output: list[Any], error: Any, usage: Usage | None) -> dict[str, Any]:
        echoed = {key: default if self._body.get(key) is None else self._body[key] for key, default in _ECHOED.items()}
        return {
            "id": f"resp_{self._name}",
            "object": "response",
            "created_at": time_of(self._name),
            "status": status,
            "background": False,
            "error": error,
            "incomplete_details": {"reason": self._why} if status == "incomplete" else None,
            "model": self._cutter.model or str(self._body.get("model") or ""),
            "output": output,
            "previous_response_id": None,
            "store": False,
            **echoed,
            "usage": None if usage is None else _usage(usage),
        }

    def _steps(self, steps: Iterator[Step]) -> Iterator[bytes]:
        for step in steps:
            cut = step.move is Move.END and self._why is not None and step.block is self._cutter.blocks[-1]
            for name, told in items.events(step, self._name, cut=cut):
                yield self._event(name, told)

    def _event(self, name: str, told: Mapping[str, Any]) -> bytes:
        event = orjson.dumps({"type": name, "sequence_number": self._number, **told})
        self._number += 1
        return sse.named(name, event)


def last_user_text(body: Mapping[str, Any]) -> str:
    """The text of the last message of the user that has any; empty where there is none."""
    given = body.get("input")
    if isinstance(given, str):
        return given
    for item in reversed(given if isinstance(given, list) else []):
        if isinstance(item, Mapping) and item.get("role") == "user" and (words := items.words(item, "\n")):
            return words
    return ""


def answer_text(response: Mapping[str, Any]) -> str:
    """The text of an answer; empty where it has none (a function call)."""
    return "".join(items.words(item, "") for item in _output(response, "message"))


def calls(response: Mapping[str, Any]) -> list[dict[str, str]]:
    """Name and arguments, as JSON text, of each tool call of an answer."""
    found = _output(response, "function_call")
    return [{key: str(call.get(key)) for key in ("name", "arguments")} for call in found]


def _output(response: Mapping[str, Any], kind: str) -> list[Mapping[str, Any]]:
    output = response.get("output")
    found = output if isinstance(output, list) else []
    return [item for item in found if isinstance(item, Mapping) and item.get("type") == kind]


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens or 0},
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens or 0},
        "total_tokens": usage.total_tokens,
    }
