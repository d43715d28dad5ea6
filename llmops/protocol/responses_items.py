"""Output items of OpenAI's Responses: each block of an answer as an item, and its life as events.

Source: https://platform.openai.com/docs/api-reference/responses-streaming
"""

from collections.abc import Iterator, Mapping
from typing import Any

from llmops.protocol.blocks import Block, Kind, Move, Step

Event = tuple[str, dict[str, Any]]

_PREFIX = {Kind.REASONING: "rs", Kind.TEXT: "msg", Kind.REFUSAL: "msg", Kind.CALL: "fc"}
#: Events of a growing part, and the field that has all of it at the end.
_GROWS = {
    Kind.REASONING: ("response.reasoning_text", "text"),
    Kind.TEXT: ("response.output_text", "text"),
    Kind.REFUSAL: ("response.refusal", "refusal"),
    Kind.CALL: ("response.function_call_arguments", "arguments"),
}


def whole(block: Block, name: str, *, cut: bool) -> dict[str, Any]:
    """The item of a block.

    Args:
        name: The interaction's id, part of the item's.
        cut: Whether the answer ended in the middle of it.
    """
    return _item(block, name, "incomplete" if cut else "completed", block.text, [_part(block, block.text)])


def events(step: Step, name: str, *, cut: bool) -> Iterator[Event]:
    """The events of one step, without their numbers.

    Args:
        cut: As for `whole`; only the end of a block can be one.
    """
    block = step.block
    place = {"item_id": _id(block, name), "output_index": block.index}
    if block.kind is not Kind.CALL:
        place["content_index"] = 0
    grows, field = _GROWS[block.kind]
    if step.move is Move.BEGIN:
        begun = _item(block, name, "in_progress", "", [])
        yield "response.output_item.added", {"output_index": block.index, "item": begun}
        if block.kind is not Kind.CALL:
            yield "response.content_part.added", {**place, "part": _part(block, "")}
    elif step.move is Move.GROW:
        extra: dict[str, Any] = {"logprobs": list(step.logprobs)} if block.kind is Kind.TEXT else {}
        yield f"{grows}.delta", {**place, "delta": step.piece, **extra}
    else:
        extra = {"logprobs": block.logprobs} if block.kind is Kind.TEXT else {}
        extra = {"name": block.name} if block.kind is Kind.CALL else extra
        yield f"{grows}.done", {**place, field: block.text, **extra}
        if block.kind is not Kind.CALL:
            yield "response.content_part.done", {**place, "part": _part(block, block.text)}
        yield "response.output_item.done", {"output_index": block.index, "item": whole(block, name, cut=cut)}


def words(item: Mapping[str, Any], between: str) -> str:
    """The text of a message, as input or as output."""
    content = item.get("content")
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    texts = (part.get("text") for part in parts if isinstance(part, Mapping))
    return between.join(text for text in texts if isinstance(text, str))


def _id(block: Block, name: str) -> str:
    return f"{_PREFIX[block.kind]}_{name}_{block.index}"


def _item(block: Block, name: str, status: str, text: str, parts: list[dict[str, Any]]) -> dict[str, Any]:
    head = {"id": _id(block, name), "status": status}
    if block.kind is Kind.CALL:
        return {**head, "type": "function_call", "call_id": block.call_id, "name": block.name, "arguments": text}
    if block.kind is Kind.REASONING:
        return {**head, "type": "reasoning", "summary": [], "content": parts}
    return {**head, "type": "message", "role": "assistant", "content": parts}


def _part(block: Block, text: str) -> dict[str, Any]:
    if block.kind is Kind.REASONING:
        return {"type": "reasoning_text", "text": text}
    if block.kind is Kind.REFUSAL:
        return {"type": "refusal", "refusal": text}
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": block.logprobs if text else []}
