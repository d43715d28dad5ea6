"""Vectors without a model: hashed words and letters, so that similar wording lies close together.

Every word, and every three letters in a row of it, is a feature; its hash names a place in the vector and a sign.

Source: K. Weinberger et al., Feature Hashing for Large Scale Multitask Learning, 2009, https://arxiv.org/abs/0902.2206
"""

import asyncio
import math
import re
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from typing import Any

from llmops.errors import BadRequest
from llmops.protocol import embeddings
from llmops.providers.tokens import Tokenizer

DEFAULT_DIMENSION, MAX_DIMENSION = 256, 4096
#: What one request may ask for, in characters to read and in numbers to answer.
MAX_CHARACTERS, MAX_NUMBERS = 1_000_000, 1 << 20
#: Up to here the loop waits (4 ms); a longer text goes to a thread.
_QUICK_CHARACTERS = 2_000

_WORD = re.compile(r"\w+")
_WORD_WEIGHT, _LETTERS_WEIGHT = 1.0, 0.3


class DemoEmbeddings:
    """Answers ``embeddings``: vectors of unit length, of 256 numbers or as many as ``dimensions`` says."""

    def __init__(self, model: str, tokenizer: Tokenizer) -> None:
        self._model = model
        self._tokenizer = tokenizer

    async def answer(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The whole answer.

        Raises:
            BadRequest: A field has a wrong type, or asks for too much.
        """
        texts = embeddings.texts(body)
        dimension = _dimension(body)
        encoding = body.get("encoding_format") or "float"
        if encoding not in ("float", "base64"):
            raise BadRequest("'encoding_format' must be 'float' or 'base64'")
        size = sum(map(len, texts))
        if size > MAX_CHARACTERS:
            raise BadRequest(f"'input' has {size} characters in all; the demo endpoint reads at most {MAX_CHARACTERS}")
        if len(texts) * dimension > MAX_NUMBERS:
            raise BadRequest(f"'input' has {len(texts)} texts; at most {MAX_NUMBERS // dimension} fit in one request")
        if size + dimension * len(texts) <= _QUICK_CHARACTERS:
            return self._document(texts, dimension, encoding)
        return await asyncio.to_thread(self._document, texts, dimension, encoding)

    def chunks(self, body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Embeddings have no stream.

        Raises:
            BadRequest: Always.
        """
        raise BadRequest("'stream' is not possible for embeddings: leave it out")

    def _document(self, texts: list[str], dimension: int, encoding: str) -> dict[str, Any]:
        tokens = sum(map(self._tokenizer.count, texts))
        vectors = (vector(text, dimension) for text in texts)
        written = map(embeddings.encode, vectors) if encoding == "base64" else vectors
        return {
            "object": "list",
            "model": self._model,
            "data": [{"object": "embedding", "index": i, "embedding": one} for i, one in enumerate(written)],
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }


def vector(text: str, dimension: int) -> list[float]:
    """Hash a text to a vector of length 1; a text without words, which has no features, to the first axis."""
    sums = [0.0] * dimension
    for word in _WORD.findall(text.casefold()):
        _add(sums, word, _WORD_WEIGHT)
        edged = f"^{word}$"
        for start in range(len(word)):
            _add(sums, edged[start : start + 3], _LETTERS_WEIGHT)
    length = math.sqrt(math.fsum(number * number for number in sums))
    return [number / length for number in sums] if length else [1.0] + [0.0] * (dimension - 1)


def _add(sums: list[float], feature: str, weight: float) -> None:
    number = int.from_bytes(blake2b(feature.encode(), digest_size=8).digest())
    sums[number % len(sums)] += weight if number >> 63 else -weight


def _dimension(body: Mapping[str, Any]) -> int:
    asked = body.get("dimensions")
    if asked is None:
        return DEFAULT_DIMENSION
    if not isinstance(asked, int) or isinstance(asked, bool) or not 1 <= asked <= MAX_DIMENSION:
        raise BadRequest(f"'dimensions' must be a whole number from 1 to {MAX_DIMENSION}")
    return asked
