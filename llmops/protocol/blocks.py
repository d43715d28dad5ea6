"""Blocks: a chat answer cut into reasoning, text, refusals and tool calls that follow one another.

In chat the pieces of several blocks may come mixed; in the wires that are translated a block ends before the next one
begins. So one block is open at a time: it ends when the next begins, a tool call only when its arguments are whole;
until then what comes for later blocks waits. A plain answer is one chunk that has everything.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import orjson

from llmops.protocol import delta
from llmops.protocol.delta import Chunk


class Kind(StrEnum):
    """What a block is."""

    REASONING = "reasoning"
    #: Reasoning that only its vendor can read.
    SEALED = "sealed"
    TEXT = "text"
    REFUSAL = "refusal"
    CALL = "call"


@dataclass(slots=True, eq=False)
class Block:
    """One block while it grows.

    Attributes:
        index: Among the blocks of the answer.
        signature: The vendor's, of its reasoning; empty where it gives none.
        logprobs: Of a text, as chat has them; empty where none were asked for.
    """

    kind: Kind
    index: int
    call_id: str = ""
    name: str = ""
    signature: str = ""
    logprobs: list[Any] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """All of it: words, or the arguments of a call byte for byte."""
        return "".join(self.pieces)

    @property
    def arguments(self) -> orjson.Fragment | dict[str, Any]:
        """The arguments of a call as an object, their bytes unchanged where they are one."""
        text = self.text
        if not text.strip():
            return {}
        # What a model broke off, or never closed, is kept as Anthropic's documentation advises.
        return orjson.Fragment(text) if _is_object(text) else {"INVALID_JSON": text}


class Move(StrEnum):
    """What happens to a block."""

    BEGIN = "begin"
    GROW = "grow"
    END = "end"


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that happens to the block that is open.

    Attributes:
        piece: What it grows by.
        logprobs: Of that piece.
    """

    move: Move
    block: Block
    piece: str = ""
    logprobs: tuple[Any, ...] = ()


@dataclass(slots=True)
class _Call:
    """A tool call while its pieces come: its number and its id as the model gives them, the id empty until then."""

    number: Any
    block: Block
    given: str = ""


class Cutter:
    """Cuts the first choice of one answer.

    Args:
        name: Part of the ids of calls whose model gives them none.
        sealed: Whether the wire has a word for reasoning that only its vendor can read; else it is left out.

    Attributes:
        blocks: Every block begun, in order.
        finish_reason: None until the model gave one.
        stop: The stop sequence that ended the answer, where the server tells it (vLLM does).
        model: As the answer names it; empty until then.
    """

    def __init__(self, name: str, *, sealed: bool = True) -> None:
        self._name = name
        self._sealed = sealed
        self._all: list[Block] = []
        self._calls: list[_Call] = []
        self._at = 0
        self._begun = False
        self._told = self._told_logprobs = 0
        self.finish_reason: str | None = None
        self.stop: str | None = None
        self.model = ""

    @property
    def blocks(self) -> list[Block]:
        """The blocks begun; a last one may be open."""
        return self._all[: self._at + self._begun]

    def whole(self, response: Chunk) -> None:
        """Take a whole answer."""
        choices = []
        for index, choice in delta.pieces([response]):
            message = choice.get("message")
            said = dict(message) if isinstance(message, Mapping) else {}
            calls = said.get("tool_calls")
            if isinstance(calls, list):
                numbered = enumerate(call for call in calls if isinstance(call, Mapping))
                said["tool_calls"] = [{**call, "index": number} for number, call in numbered]
            choices.append({**choice, "index": index, "delta": said})
        for _ in self.take({**response, "choices": choices}):
            pass
        for _ in self.end():
            pass

    def take(self, chunk: Chunk) -> Iterator[Step]:
        """Take one chunk; what happens is told while it is read, so read it to its end."""
        model = chunk.get("model")
        self.model = self.model or (model if isinstance(model, str) else "")
        for index, choice in delta.pieces([chunk]):
            if index == 0:
                self._choice(choice)
        yield from self._advance()

    def end(self) -> Iterator[Step]:
        """Let out what still waits, and end the last block."""
        yield from self._advance(over=True)

    def _choice(self, choice: Chunk) -> None:
        reason, stop, said = choice.get("finish_reason"), choice.get("stop_reason"), choice.get("delta")
        self.finish_reason = reason if isinstance(reason, str) else self.finish_reason
        self.stop = stop if isinstance(stop, str) else self.stop
        if not isinstance(said, Mapping):
            return
        self._reasoning(said)
        for words in _texts(said.get("content")):
            self._grow(Kind.TEXT, words)
        logprobs = choice.get("logprobs")
        found = logprobs.get("content") if isinstance(logprobs, Mapping) else None
        if isinstance(found, list) and (block := self._last(Kind.TEXT)) is not None:
            block.logprobs += found
        for words in _texts(said.get("refusal")):
            self._grow(Kind.REFUSAL, words)
        calls = said.get("tool_calls")
        for piece in calls if isinstance(calls, list) else ():
            if isinstance(piece, Mapping):
                self._call(piece)

    def _reasoning(self, said: Chunk) -> None:
        # litellm gives the same words twice: once as text, once as blocks with the vendor's signature.
        thoughts = said.get("thinking_blocks")
        if not isinstance(thoughts, list) or not thoughts:
            given = said.get("reasoning_content")
            for words in _texts(given if isinstance(given, str) else said.get("reasoning")):
                self._grow(Kind.REASONING, words)
            return
        for thought in thoughts:
            if not isinstance(thought, Mapping):
                continue
            if thought.get("type") == "redacted_thinking":
                if self._sealed:
                    self._new(Kind.SEALED).pieces.append(str(thought.get("data") or ""))
                continue
            for words in _texts(thought.get("thinking")):
                self._grow(Kind.REASONING, words)
            signature = thought.get("signature")
            if isinstance(signature, str) and signature:
                (self._last(Kind.REASONING) or self._new(Kind.REASONING)).signature = signature

    def _call(self, piece: Chunk) -> None:
        index, given = piece.get("index"), str(piece.get("id") or "")
        function = piece.get("function")
        told = function if isinstance(function, Mapping) else {}
        # As `chat.fold` does: some servers give every parallel call the index 0, or none; some give the id late.
        found = next(
            (call for call in self._calls[::-1] if call.number == index and (not given or call.given in ("", given))),
            None,
        )
        if found is None:
            block = self._new(Kind.CALL)
            block.call_id = f"call_{self._name}_{block.index}"
            found = _Call(index, block)
            self._calls.append(found)
        block = found.block
        if given and not found.given:
            found.given = given
            # What was told already keeps its name.
            block.call_id = given if block.index >= self._at + self._begun else block.call_id
        name, arguments = told.get("name"), told.get("arguments")
        block.name = block.name or (name if isinstance(name, str) else "")
        if arguments is not None and not isinstance(arguments, str):
            arguments = orjson.dumps(arguments).decode()
        if arguments and block.index >= self._at:
            block.pieces.append(arguments)

    def _grow(self, kind: Kind, words: str) -> None:
        (self._last(kind) or self._new(kind)).pieces.append(words)

    def _last(self, kind: Kind) -> Block | None:
        """The last block of a kind that may still grow."""
        for block in self._all[: self._at - 1 if self._at else None : -1]:
            if block.kind is kind:
                return None if block.signature else block
        return None

    def _new(self, kind: Kind) -> Block:
        self._all.append(Block(kind, len(self._all)))
        return self._all[-1]

    def _advance(self, *, over: bool = False) -> Iterator[Step]:
        while self._at < len(self._all):
            block, is_last = self._all[self._at], self._at == len(self._all) - 1
            if not self._begun:
                if block.kind is Kind.CALL and not block.name and not over:
                    return
                self._begun = True
                yield Step(Move.BEGIN, block)
            if self._told < len(block.pieces):
                piece, logprobs = "".join(block.pieces[self._told :]), tuple(block.logprobs[self._told_logprobs :])
                self._told, self._told_logprobs = len(block.pieces), len(block.logprobs)
                yield Step(Move.GROW, block, piece, logprobs)
            if not over and (is_last or (block.kind is Kind.CALL and not _is_object(block.text))):
                return
            self._at, self._begun, self._told, self._told_logprobs = self._at + 1, False, 0, 0
            yield Step(Move.END, block)


def _texts(content: Any) -> Iterator[str]:
    """The texts of a content that is one string, or parts."""
    if isinstance(content, str):
        if content:
            yield content
        return
    for part in content if isinstance(content, list) else ():
        words = part.get("text") if isinstance(part, Mapping) else None
        if isinstance(words, str) and words:
            yield words


def _is_object(text: str) -> bool:
    """Whether a text is a whole JSON object; looks at its end first, so that asking again and again stays cheap."""
    if not text.rstrip().endswith("}"):
        return False
    try:
        return isinstance(orjson.loads(text), dict)
    except ValueError:
        return False
