"""The wires that callers may speak to a chat endpoint and that are translated, by their names in records."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from llmops.protocol import messages, responses
from llmops.protocol.translation import Translate

Body = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Wire:
    """How a wire is translated, and how its bodies are read.

    Attributes:
        last_user_text: Of a request; empty where there is none.
        answer_text: Of an answer; empty where it has none.
        calls: Of an answer: name and arguments, as JSON text, of each tool call.
        shown_as: How MLflow's UI is told to read its bodies.
    """

    translate: Translate
    last_user_text: Callable[[Body], str]
    answer_text: Callable[[Body], str]
    calls: Callable[[Body], list[dict[str, str]]]
    shown_as: str


WIRES: Mapping[str, Wire] = {
    messages.NAME: Wire(
        messages.Messages, messages.last_user_text, messages.answer_text, messages.calls, shown_as="anthropic"
    ),
    responses.NAME: Wire(
        responses.Responses, responses.last_user_text, responses.answer_text, responses.calls, shown_as="openai"
    ),
}
