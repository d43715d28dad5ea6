"""A request of another wire on its way through a chat endpoint: what the gateway asks of whoever translates it.

The model is asked in OpenAI's chat; the caller hears their own wire. Nothing here knows a network or a clock.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from llmops.errors import LlmopsError
from llmops.protocol.usage import Usage


class Telling(Protocol):
    """One answer, told in the caller's wire while it comes, or whole."""

    def take(self, chunk: Mapping[str, Any]) -> bytes:
        """The events of one chunk of a streamed chat answer; empty where it brings nothing the caller can hear."""
        ...

    def end(self, usage: Usage | None) -> bytes:
        """The events that end an answer well."""
        ...

    def error(self, error: LlmopsError) -> bytes:
        """The event that ends an answer that broke."""
        ...

    def document(self, usage: Usage | None, error: LlmopsError | None = None) -> dict[str, Any]:
        """What was told so far, as a plain answer of the caller's wire; JSON for orjson alone.

        Args:
            error: What broke it; None where it is whole.
        """
        ...

    def whole(self, response: Mapping[str, Any]) -> None:
        """Take a whole chat answer, of which `document` is asked next."""
        ...


class Translation(Protocol):
    """One request.

    Attributes:
        chat: What the model is asked.
        user: Who asks, where the wire has words of its own for it; else empty.
    """

    @property
    def chat(self) -> Mapping[str, Any]: ...

    @property
    def user(self) -> str: ...

    def telling(self, interaction_id: str) -> Telling:
        """Begin the answer, whose ids are made of the interaction's."""
        ...


#: Reads a body without our own fields; raises BadRequest that names what cannot be said in chat.
Translate = Callable[[Mapping[str, Any]], Translation]


def time_of(interaction_id: str) -> int:
    """Epoch seconds in which an interaction began: a UUIDv7 begins with its milliseconds."""
    return int(interaction_id[:12], 16) // 1000
