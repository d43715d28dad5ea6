"""Token counts where a model reports none: tiktoken's cl100k_base, from files we have, without a network."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

import tiktoken

from llmops import settings
from llmops.protocol import chat, completions, embeddings
from llmops.protocol.task import Task
from llmops.protocol.usage import Usage

log = logging.getLogger(__name__)

#: Longer texts are counted by ten samples of a tenth: counting runs on the server's loop, and takes up to 20 ms here.
EXACT_CHARACTERS = 100_000

_PROMPT_TEXT: Mapping[Task, Callable[[Mapping[str, Any]], str]] = {
    Task.CHAT: chat.whole_text,
    Task.COMPLETIONS: completions.prompt_text,
    Task.EMBEDDINGS: embeddings.prompt_text,
}
_ANSWER_TEXT: Mapping[Task, Callable[[Mapping[str, Any]], str]] = {
    Task.CHAT: chat.written_text,
    Task.COMPLETIONS: completions.written_text,
    Task.EMBEDDINGS: lambda answer: "",
}


class Tokenizer:
    """Counts tokens; safe in many threads at once.

    Until the vocabulary is loaded, and where it cannot be, a text counts (characters + 1) / 4 tokens, rounded down.

    Source: ../shared/reference/databricks_contract.md 7.6 (the rule without a vocabulary)
    """

    def __init__(self) -> None:
        self._vocabulary: tiktoken.Encoding | None = None

    def load(self) -> None:
        """Load the vocabulary: 0.1 s and 40 MB, blocking. A failure is logged, and the rule above stays in force."""
        settings.use_shipped_vocabulary()
        try:
            self._vocabulary = tiktoken.get_encoding("cl100k_base")
        except (OSError, ValueError) as err:
            log.warning("vocabulary=cl100k_base loaded=false reason=%r", str(err))

    def count(self, text: str) -> int:
        """The tokens of a text, names of special tokens read as plain text; of more than EXACT_CHARACTERS about."""
        if self._vocabulary is None:
            return (len(text) + 1) // 4
        encode = self._vocabulary.encode_ordinary
        if len(text) <= EXACT_CHARACTERS:
            return len(encode(text))
        step, size = len(text) // 10, EXACT_CHARACTERS // 10
        counted = sum(len(encode(text[start : start + size])) for start in range(0, 10 * step, step))
        return counted * len(text) // EXACT_CHARACTERS

    def cut(self, text: str, limit: int) -> str:
        """The beginning of a text, at most `limit` tokens of it; a character is never cut in two."""
        if self._vocabulary is None:
            return text[: 4 * limit + 2]
        tokens = self._vocabulary.encode_ordinary(text)
        return text if len(tokens) <= limit else self._vocabulary.decode(tokens[:limit], errors="ignore")

    def estimate(self, task: Task, body: Mapping[str, Any], answer: Mapping[str, Any]) -> Usage:
        """The usage of an answer whose model reported none.

        Args:
            body: The request, of which only text counts: no image, no token that marks a message.
            answer: What was answered, or the part of it that was; empty where nothing was.
        """
        return Usage(self.count(_PROMPT_TEXT[task](body)), self.count(_ANSWER_TEXT[task](answer)), estimated=True)
