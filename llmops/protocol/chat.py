"""Chat: the text of a conversation, and a streamed reply joined into the response a plain call would give."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson

from llmops.protocol import delta
from llmops.protocol.delta import Chunk


def text(message: Any) -> str:
    """The text of one message, one line for each part; empty where it has none."""
    return "\n".join(_texts(message))


def prompt_text(body: Mapping[str, Any]) -> str:
    """All text of the messages, one line for each part; images and audio are left out."""
    return "\n".join(part for message in _list(body.get("messages")) for part in _texts(message))


def whole_text(body: Mapping[str, Any]) -> str:
    """All a model reads of a request, as text: messages, tool calls, tools and the form of the answer."""
    messages = (message for message in _list(body.get("messages")) if isinstance(message, Mapping))
    calls = [call for message in messages for call in _list(message.get("tool_calls"))]
    forms = [form for form in (calls, body.get("tools"), body.get("response_format")) if form]
    return "\n".join([prompt_text(body), *(orjson.dumps(form).decode() for form in forms)])


def last_user_text(body: Mapping[str, Any]) -> str:
    """The text of the last message of the user; empty where there is none."""
    for message in reversed(_list(body.get("messages"))):
        if isinstance(message, Mapping) and message.get("role") == "user":
            return text(message)
    return ""


def answer_text(response: Mapping[str, Any]) -> str:
    """The text of the first choice of a response; empty where it has none (a tool call, an error)."""
    for choice in _list(response.get("choices")):
        message = choice.get("message") if isinstance(choice, Mapping) else None
        return text(message)
    return ""


def written_text(response: Mapping[str, Any]) -> str:
    """All a model wrote in a response, as text: reasoning, words, refusals and tool calls, of every choice."""
    choices = (choice for choice in _list(response.get("choices")) if isinstance(choice, Mapping))
    messages = (message for choice in choices if isinstance(message := choice.get("message"), Mapping))
    return "\n".join(part for message in messages for part in _written(message))


def _written(message: Mapping[str, Any]) -> Iterator[str]:
    # Some servers give the same reasoning under two names.
    for words in (message.get("reasoning_content") or message.get("reasoning"), message.get("refusal")):
        if isinstance(words, str):
            yield words
    yield from _texts(message)
    for call in _list(message.get("tool_calls")):
        function = call.get("function") if isinstance(call, Mapping) else None
        told = (function.get("name"), function.get("arguments")) if isinstance(function, Mapping) else ()
        yield from (part for part in told if isinstance(part, str))


def delta_text(chunk: Chunk) -> str:
    """The text a chunk adds to the first choice, the one with index 0; empty where it adds none."""
    for index, piece in delta.pieces([chunk]):
        added = piece.get("delta")
        if index == 0 and isinstance(added, Mapping):
            return "".join(_texts(added))
    return ""


def fold(chunks: Sequence[Chunk]) -> dict[str, Any]:
    """Join the chunks of one streamed reply into the response a plain call would give.

    Args:
        chunks: In arrival order, length >= 1, all of one reply. The last may carry usage.

    Returns:
        One choice per index seen, by index. Strings and lists of a delta are joined, known fields or not; tool calls
        by their index. ``usage`` is there only if a chunk carried it; never guessed.

    Raises:
        ValueError: chunks is empty.

    Source: https://platform.openai.com/docs/api-reference/chat-streaming
    """
    head = delta.head(chunks)
    choices: dict[int, dict[str, Any]] = {}
    for index, piece in delta.pieces(chunks):
        _fold_choice(choices.setdefault(index, _new_choice(index)), piece)
    for choice in choices.values():
        for call in choice["message"].get("tool_calls") or ():
            del call["index"]  # Only pieces carry it.
    return {**head, "object": "chat.completion", "choices": [choice for _, choice in sorted(choices.items())]}


def _new_choice(index: int) -> dict[str, Any]:
    return {"index": index, "message": {"role": "assistant", "content": None}, "finish_reason": None}


def _fold_choice(choice: dict[str, Any], piece: Chunk) -> None:
    for key, value in piece.items():
        if key == "delta" and isinstance(value, Mapping):
            _fold_tool_calls(choice["message"], _list(value.get("tool_calls")))
            delta.join(choice["message"], {name: part for name, part in value.items() if name != "tool_calls"})
        elif key == "logprobs":
            delta.join(choice, {key: value})
        elif key not in ("index", "delta", "message") and (value is not None or key not in choice):
            choice[key] = value


def _fold_tool_calls(message: dict[str, Any], pieces: Sequence[Any]) -> None:
    for piece in pieces:
        if isinstance(piece, Mapping):
            call = _tool_call(message.setdefault("tool_calls", []), piece)
            delta.join(call, {key: value for key, value in piece.items() if key != "index"})


def _tool_call(calls: list[dict[str, Any]], piece: Chunk) -> dict[str, Any]:
    """The call a piece belongs to: the last with its index, unless it brings another id.

    Some servers give every parallel call the index 0, or none; then the id tells them apart.
    """
    index, name = piece.get("index"), piece.get("id")
    for call in calls[::-1]:
        if call["index"] == index and (not name or call.get("id") in (None, "", name)):
            return call
    begun: dict[str, Any] = {"index": index, "type": "function"}
    calls.append(begun)
    return begun


def _texts(message: Any) -> list[str]:
    content = message.get("content") if isinstance(message, Mapping) else None
    if isinstance(content, str):
        return [content]
    parts = [part.get("text") for part in _list(content) if isinstance(part, Mapping)]
    return [part for part in parts if isinstance(part, str)]


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
