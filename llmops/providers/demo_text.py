"""The demo endpoint's words in the shapes of chat and of completions, plain and streamed.

Both shapes are made of the same choices, so a stream joins to exactly what a plain answer says.
"""

import re
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from llmops.errors import BadRequest
from llmops.protocol import chat, completions
from llmops.protocol.usage import Usage
from llmops.providers.demo_script import Script
from llmops.providers.tokens import Tokenizer

MAX_CHOICES = 5  # As Databricks; Source: ../shared/reference/databricks_contract.md 4.1
MAX_PROMPTS = 32

_ROLES = ("system", "developer", "user", "assistant", "tool", "function")
_PIECE = re.compile(r"\s*\S+\s*|\s+")


@dataclass(frozen=True, slots=True)
class Choice:
    """One answer. ``finish_reason`` is stop, or length where ``max_tokens`` cut it."""

    text: str
    tokens: int
    finish_reason: str

    def pieces(self) -> list[str]:
        """The text word by word, each with the spaces around it; joined they are the text."""
        return _PIECE.findall(self.text)


@dataclass(frozen=True, slots=True)
class Sampling:
    """What a body asks of the words; temperature and its like change nothing here."""

    n: int
    max_tokens: int | None
    stop: tuple[str, ...]

    @classmethod
    def read(cls, body: Mapping[str, Any]) -> Self:
        """Read the fields of a body.

        Raises:
            BadRequest: A field has a wrong type or value.
        """
        field = "max_tokens" if body.get("max_completion_tokens") is None else "max_completion_tokens"
        n, limit = _whole(body, "n"), _whole(body, field)
        if n is not None and n > MAX_CHOICES:
            raise BadRequest(f"'n' is {n}; at most {MAX_CHOICES} choices can be asked for")
        stop = body.get("stop")
        stops = [stop] if isinstance(stop, str) else [] if stop is None else stop
        if not isinstance(stops, list) or not all(isinstance(text, str) and text for text in stops):
            raise BadRequest("'stop' must be a string or a list of strings, none of them empty")
        return cls(n or 1, limit, tuple(stops))


class _Writer:
    """Answers conversations with choices."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._script = Script.shipped()
        self._tokenizer = tokenizer

    def write(self, conversations: Sequence[Sequence[str]], body: Mapping[str, Any]) -> list[Choice]:
        sampling = Sampling.read(body)
        return [
            self._choice(self._script.reply(said, variant), sampling)
            for said in conversations
            for variant in range(sampling.n)
        ]

    def usage(self, prompt: str, choices: Sequence[Choice]) -> dict[str, int]:
        return Usage(self._tokenizer.count(prompt), sum(choice.tokens for choice in choices)).document()

    def _choice(self, text: str, sampling: Sampling) -> Choice:
        for stop in sampling.stop:
            text = text.partition(stop)[0]
        limit = sampling.max_tokens
        short = text if limit is None else self._tokenizer.cut(text, limit)
        return Choice(short, self._tokenizer.count(short), "stop" if short == text else "length")


class DemoChat:
    """Answers ``chat``. Only what the user said is heard: a system message cannot change a script."""

    def __init__(self, model: str, tokenizer: Tokenizer) -> None:
        self._model = model
        self._writer = _Writer(tokenizer)

    async def answer(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The whole answer.

        Raises:
            BadRequest: A field has a wrong type or value; names it.
        """
        choices = self._writer.write([_conversation(body)], body)
        return _head("chatcmpl", "chat.completion", self._model) | {
            "choices": [
                {
                    "index": index,
                    "message": {"role": "assistant", "content": choice.text},
                    "finish_reason": choice.finish_reason,
                }
                for index, choice in enumerate(choices)
            ],
            "usage": self._writer.usage(chat.prompt_text(body), choices),
        }

    def chunks(self, body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """The same answer as the chunks of a stream.

        Raises:
            BadRequest: As `answer`, and at once, not with the first chunk.
        """
        choices = self._writer.write([_conversation(body)], body)
        usage = self._writer.usage(chat.prompt_text(body), choices) if _usage_wanted(body) else None
        return self._chunks(choices, usage)

    def _chunks(self, choices: Sequence[Choice], usage: dict[str, int] | None) -> Iterator[dict[str, Any]]:
        head = _head("chatcmpl", "chat.completion.chunk", self._model)
        for index, choice in enumerate(choices):
            words = ({"content": piece} for piece in choice.pieces())
            for delta in ({"role": "assistant", "content": ""}, *words):
                yield head | {"choices": [{"index": index, "delta": delta, "finish_reason": None}]}
            yield head | {"choices": [{"index": index, "delta": {}, "finish_reason": choice.finish_reason}]}
        if usage:
            yield head | {"choices": [], "usage": usage}


class DemoCompletions:
    """Answers ``completions``: each prompt is heard as the first thing somebody says."""

    def __init__(self, model: str, tokenizer: Tokenizer) -> None:
        self._model = model
        self._writer = _Writer(tokenizer)

    async def answer(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The whole answer, ``n`` choices for each prompt in turn.

        Raises:
            BadRequest: A field has a wrong type or value; names it.
        """
        choices = self._writer.write(_prompts(body), body)
        return _head("cmpl", "text_completion", self._model) | {
            "choices": [
                {"index": index, "text": choice.text, "logprobs": None, "finish_reason": choice.finish_reason}
                for index, choice in enumerate(choices)
            ],
            "usage": self._writer.usage(completions.prompt_text(body), choices),
        }

    def chunks(self, body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """The same answer as the chunks of a stream.

        Raises:
            BadRequest: As `answer`, and at once, not with the first chunk.
        """
        choices = self._writer.write(_prompts(body), body)
        usage = self._writer.usage(completions.prompt_text(body), choices) if _usage_wanted(body) else None
        return self._chunks(choices, usage)

    def _chunks(self, choices: Sequence[Choice], usage: dict[str, int] | None) -> Iterator[dict[str, Any]]:
        head = _head("cmpl", "text_completion", self._model)
        for index, choice in enumerate(choices):
            *pieces, last = choice.pieces() or [""]
            for piece in pieces:
                yield head | {"choices": [{"index": index, "text": piece, "logprobs": None, "finish_reason": None}]}
            final = {"index": index, "text": last, "logprobs": None, "finish_reason": choice.finish_reason}
            yield head | {"choices": [final]}
        if usage:
            yield head | {"choices": [], "usage": usage}


def _conversation(body: Mapping[str, Any]) -> list[str]:
    """What the user said, oldest first."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise BadRequest("'messages' must be a list of at least one message")
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise BadRequest(f"'messages[{index}]' must be an object with 'role' and 'content'")
        if message.get("role") not in _ROLES:
            raise BadRequest(f"'messages[{index}].role' must be one of {', '.join(_ROLES)}")
        if not isinstance(message.get("content"), str | list | None):
            raise BadRequest(f"'messages[{index}].content' must be a string or a list of parts")
    return [chat.text(message) for message in messages if message["role"] == "user"]


def _prompts(body: Mapping[str, Any]) -> list[list[str]]:
    """Each prompt as a conversation of one turn."""
    prompt = body.get("prompt")
    prompts = [prompt] if isinstance(prompt, str) else prompt
    if not isinstance(prompts, list) or not prompts or not all(isinstance(text, str) for text in prompts):
        raise BadRequest("'prompt' must be a string or a non-empty list of strings")
    if len(prompts) > MAX_PROMPTS:
        raise BadRequest(f"'prompt' has {len(prompts)} texts; the demo endpoint answers at most {MAX_PROMPTS} at once")
    return [[text] for text in prompts]


def _head(prefix: str, kind: str, model: str) -> dict[str, Any]:
    return {"id": f"{prefix}-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": model}


def _usage_wanted(body: Mapping[str, Any]) -> bool:
    options = body.get("stream_options")
    return isinstance(options, Mapping) and options.get("include_usage") is True


def _whole(body: Mapping[str, Any], field: str) -> int | None:
    value = body.get(field)
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    raise BadRequest(f"'{field}' must be a whole number of at least 1")
