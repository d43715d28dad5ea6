"""Token counts of one interaction, as vendors report them and as we estimate them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one answer.

    Attributes:
        input_tokens: Tokens of the prompt, cached ones included.
        output_tokens: Tokens of the answer, reasoning included; 0 for embeddings.
        cached_tokens: Part of the input read from the vendor's cache; None where not reported.
        reasoning_tokens: Part of the output spent on reasoning; None where not reported.
        estimated: True where the model reported nothing and tiktoken counted.
    """

    input_tokens: int
    output_tokens: int
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    estimated: bool = False

    @property
    def total_tokens(self) -> int:
        """Input and output together."""
        return self.input_tokens + self.output_tokens

    @classmethod
    def read(cls, answer: Mapping[str, object]) -> Self | None:
        """Read the ``usage`` object of an OpenAI-shaped answer or chunk.

        Returns:
            None where there is no usage, or where its counts are not integers >= 0; never guessed. Where an answer has
            no ``choices`` (embeddings), ``completion_tokens`` may be missing, and are 0.
        """
        usage = answer.get("usage")
        if not isinstance(usage, Mapping):
            return None
        sent = _count(usage, "prompt_tokens")
        received = _count(usage, "completion_tokens")
        if usage.get("completion_tokens") is None and "choices" not in answer:
            received = 0
        if sent is None or received is None:
            return None
        return cls(
            input_tokens=sent,
            output_tokens=received,
            cached_tokens=_detail(usage, "prompt_tokens_details", "cached_tokens"),
            reasoning_tokens=_detail(usage, "completion_tokens_details", "reasoning_tokens"),
        )

    def document(self) -> dict[str, int]:
        """The counts as an OpenAI ``usage`` object."""
        return {
            "prompt_tokens": self.input_tokens,
            "completion_tokens": self.output_tokens,
            "total_tokens": self.total_tokens,
        }


def _count(usage: Mapping[str, object], key: str) -> int | None:
    value = usage.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _detail(usage: Mapping[str, object], group: str, key: str) -> int | None:
    details = usage.get(group)
    return _count(details, key) if isinstance(details, Mapping) else None
