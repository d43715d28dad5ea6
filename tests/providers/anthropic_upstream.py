"""What a scripted Anthropic says, plain and streamed; the server itself is tests/upstream.py.

Source: https://docs.anthropic.com/en/api/messages, https://docs.anthropic.com/en/docs/build-with-claude/streaming
"""

import json
from collections.abc import Mapping
from typing import Any

from llmops.protocol.usage import Usage
from tests.scripts import document, stream
from tests.wire import Gate, Piece, Script

WORDS = ("Hello", " there", ", é", ".")
#: Of 15 tokens of input, 4 came from Anthropic's cache, which it counts apart.
USAGE = {"input_tokens": 11, "cache_read_input_tokens": 4, "output_tokens": 5}
#: The same as we count it.
COUNTED = Usage(15, 5, cached_tokens=4, reasoning_tokens=0)

_HEAD = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-x"}


def text_reply(text: str = "".join(WORDS)) -> Script:
    """A message of one text."""
    said = {"content": [{"type": "text", "text": text}], "stop_reason": "end_turn", "stop_sequence": None}
    return document({**_HEAD, **said, "usage": USAGE})


def event(kind: str, **data: Any) -> bytes:
    """One event of a stream."""
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **data})}\n\n".encode()


def start() -> bytes:
    """The first event of a streamed message."""
    usage = {**USAGE, "output_tokens": 1}
    return event("message_start", message={**_HEAD, "content": [], "usage": usage, "stop_reason": None})


def block(index: int, opening: Mapping[str, Any], *deltas: Mapping[str, Any]) -> list[bytes]:
    """The events of one block of a streamed message."""
    middle = [event("content_block_delta", index=index, delta=delta) for delta in deltas]
    return [
        event("content_block_start", index=index, content_block=opening),
        *middle,
        event("content_block_stop", index=index),
    ]


def text_block(*words: str) -> list[bytes]:
    """The events of one text, word by word."""
    return block(0, {"type": "text", "text": ""}, *({"type": "text_delta", "text": word} for word in words))


def end(stop: str = "end_turn") -> list[bytes]:
    """The last events of a streamed message."""
    last = event("message_delta", delta={"stop_reason": stop, "stop_sequence": None}, usage={"output_tokens": 5})
    return [last, event("message_stop")]


def text_stream(words: tuple[str, ...] = WORDS, pause: Gate | None = None) -> Script:
    """A streamed message of one text; `pause` comes after the first word."""
    pieces: list[Piece] = [start(), *text_block(*words), *end()]
    if pause is not None:
        pieces.insert(3, pause)
    return stream(*pieces)
