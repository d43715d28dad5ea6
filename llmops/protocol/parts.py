"""Parts of a chat message: text, images and files, as the wires that are translated to chat need them."""

from collections.abc import Sequence
from typing import Any

Part = dict[str, Any]


def text(words: str) -> Part:
    """A part of text."""
    return {"type": "text", "text": words}


def image(url: str, detail: str | None = None) -> Part:
    """An image by its URL, which may be a ``data:`` one."""
    return {"type": "image_url", "image_url": {"url": url} | ({"detail": detail} if detail else {})}


def file(url: str, name: str | None = None) -> Part:
    """A file by a ``data:`` URL."""
    return {"type": "file", "file": ({"filename": name} if name else {}) | {"file_data": url}}


def data_url(media_type: str, base64: str) -> str:
    """A ``data:`` URL of what is base64 already."""
    return f"data:{media_type};base64,{base64}"


def content(parts: Sequence[Part]) -> str | list[Part]:
    """The content of a message: the plain text where it is one text, which every server takes; else the parts."""
    if not parts:
        return ""
    return parts[0]["text"] if len(parts) == 1 and parts[0]["type"] == "text" else list(parts)


def shown(parts: Sequence[Part], call_ids: Sequence[str]) -> list[Part]:
    """What tools showed, as parts for the user's next message: chat's tool messages hold text only.

    Args:
        parts: Images and files.
        call_ids: Of each, the call it answers.
    """
    found: list[Part] = []
    for part, call_id in zip(parts, call_ids, strict=True):
        found += [text(f"Result of tool call {call_id}:"), part]
    return found
