"""Completions: the prompt's text, and a streamed completion joined into the response a plain call would give."""

from collections.abc import Mapping, Sequence
from typing import Any

from llmops.protocol import delta
from llmops.protocol.delta import Chunk


def prompt_text(body: Mapping[str, Any]) -> str:
    """The prompt, or the prompts one line each; token ids count as nothing."""
    prompt = body.get("prompt")
    if isinstance(prompt, str):
        return prompt
    return "\n".join(text for text in prompt if isinstance(text, str)) if isinstance(prompt, list) else ""


def prompts(body: Mapping[str, Any]) -> int:
    """How many prompts a request has: a list of texts or of lists of token ids is several."""
    prompt = body.get("prompt")
    if not isinstance(prompt, list) or any(isinstance(one, int) for one in prompt):
        return 1
    return max(1, len(prompt))


def written_text(response: Chunk) -> str:
    """The text of all choices of a response."""
    texts = (piece.get("text") for _, piece in delta.pieces([response]))
    return "\n".join(text for text in texts if isinstance(text, str))


def answer_text(response: Chunk) -> str:
    """The text of the first choice of a response or a chunk, the one with index 0; empty where it has none."""
    for index, piece in delta.pieces([response]):
        text = piece.get("text")
        if index == 0 and isinstance(text, str):
            return text
    return ""


def fold(chunks: Sequence[Chunk]) -> dict[str, Any]:
    """Join the chunks of one streamed completion.

    Args:
        chunks: In arrival order, length >= 1, all of one reply. The last may carry usage.

    Returns:
        One choice per index seen, by index. ``usage`` is there only if a chunk carried it; never guessed.

    Raises:
        ValueError: chunks is empty.

    Source: https://platform.openai.com/docs/api-reference/completions
    """
    head = delta.head(chunks)
    choices: dict[int, dict[str, Any]] = {}
    for index, piece in delta.pieces(chunks):
        choice = choices.setdefault(index, {"index": index, "text": "", "finish_reason": None})
        for key, value in piece.items():
            if key in ("text", "logprobs"):
                delta.join(choice, {key: value})
            elif key != "index" and (value is not None or key not in choice):
                choice[key] = value
    return {**head, "object": "text_completion", "choices": [choice for _, choice in sorted(choices.items())]}
