"""Embeddings: the texts of a request and the vectors of a response, as floats or as base64."""

import base64
import struct
from collections.abc import Mapping, Sequence
from typing import Any

from llmops.errors import BadRequest


def texts(body: Mapping[str, Any]) -> list[str]:
    """The texts to embed.

    Returns:
        Length >= 1; a single string becomes a list of one.

    Raises:
        BadRequest: ``input`` is neither a string nor a non-empty list of strings.
    """
    given = body.get("input")
    if isinstance(given, str):
        return [given]
    if isinstance(given, list) and given and all(isinstance(text, str) for text in given):
        return given
    raise BadRequest("'input' must be a string or a non-empty list of strings")


def prompt_text(body: Mapping[str, Any]) -> str:
    """All texts to embed, one line each; empty where ``input`` holds none (token ids)."""
    given = body.get("input")
    if isinstance(given, str):
        return given
    return "\n".join(text for text in given if isinstance(text, str)) if isinstance(given, list) else ""


def encode(vector: Sequence[float]) -> str:
    """Write a vector as base64 of little-endian float32, the ``encoding_format`` openai's client asks for."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
