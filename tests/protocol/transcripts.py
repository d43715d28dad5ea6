"""Chat answers that the tests of the translated wires share, and how their events are read."""

from typing import Any

import orjson

#: An interaction's id: a UUIDv7.
ID = "0190a0b0c0d07000800000000000abcd"

TOOLS = [
    {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1.0}'}},
    {"id": "c2", "type": "function", "function": {"name": "g", "arguments": "{}"}},
]


def said(delta: Any, finish_reason: str | None = None, **more: Any) -> dict[str, Any]:
    """One chunk of a streamed chat."""
    return {"model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason, **more}]}


def _call(index: int, arguments: str, **head: Any) -> dict[str, Any]:
    named = {"name": head.pop("name")} if "name" in head else {}
    return {"index": index, **head, "function": {**named, "arguments": arguments}}


#: Reasoning; text and a call in one chunk; two calls at once, whose arguments come mixed.
TOOL_CHUNKS = [
    said({"role": "assistant", "content": "", "reasoning_content": "hm"}),
    said({"content": "so", "tool_calls": [_call(0, "", id="c1", name="f")]}),
    said({"tool_calls": [_call(0, '{"x": 1.0')]}),
    said({"tool_calls": [_call(1, "{}", id="c2", name="g")]}),
    said({"tool_calls": [_call(0, "}")]}),
    said({}, "tool_calls"),
]


def heard(told: bytes) -> list[tuple[str, dict[str, Any]]]:
    """Every event by its name; nothing else may be in the stream."""
    events = []
    for block in told.decode().split("\n\n")[:-1]:
        first, second = block.split("\n")
        assert first.startswith("event: "), block
        assert second.startswith("data: "), block
        events.append((first.removeprefix("event: "), orjson.loads(second.removeprefix("data: "))))
    return events
