"""A streamed answer on its way to the caller: events pass as they came, and the record is made on the way.

A relay is an object, not a generator: one that never started must still be closed, and closing must not await.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson

from llmops.errors import ClientGone, LlmopsError, UpstreamError, UpstreamMalformed
from llmops.interactions.recorder import Recording
from llmops.protocol import chat, completions
from llmops.protocol.invocation import Invocation
from llmops.protocol.sse import DONE, encode
from llmops.protocol.task import Task
from llmops.protocol.usage import Usage
from llmops.providers.provider import AnswerStream
from llmops.providers.tokens import Tokenizer

logger = logging.getLogger(__name__)

_FOLD: Mapping[Task, Callable[[Sequence[Mapping[str, Any]]], dict[str, Any]]] = {
    Task.CHAT: chat.fold,
    Task.COMPLETIONS: completions.fold,
}


class Cut(UpstreamMalformed):
    """A stream that ended before its answer did."""

    kind = "cut"


class Relay:
    """The body of a streamed answer.

    Args:
        stream: Owned by the relay from now on.
        adds_usage: Whether the caller gets the usage unasked: once, in a last chunk without choices.
    """

    def __init__(self, stream: AnswerStream, recording: Recording, tokenizer: Tokenizer, *, adds_usage: bool) -> None:
        asked = recording.invocation
        self._stream = stream
        self._recording = recording
        self._tokenizer = tokenizer
        self._adds_usage = adds_usage
        self._keeps_usage = adds_usage or (asked is not None and asked.wants_usage)
        translation = recording.translation
        self._telling = translation.telling(recording.interaction_id) if translation is not None else None
        self._ready = b""
        self._chunks: list[Mapping[str, Any]] = []
        #: Choices by index: of which anything came that was no end, and of which an end came.
        self._begun: set[int] = set()
        self._finished: set[int] = set()
        self._usage_sent = False
        self._ended = False
        #: The chunks joined, as chat; None until `_joined`, and where nobody can join them.
        self._response: dict[str, Any] | None = None
        self._joined = False

    def begin(self, events: list[bytes]) -> None:
        """Take the first events; the answer is committed when this returns.

        Raises:
            Cut: One of them is an error or not a chunk.
        """
        self._ready, error = self._pass(events)
        if error is not None:
            raise error

    async def next(self) -> bytes | None:
        """The next bytes to send; None when everything has been given.

        The record is durable before the bytes that end the stream are given.
        """
        if self._recording.first_byte_ms is None:
            self._recording.first_byte()
        passed, self._ready = self._ready, b""
        while not passed and not self._ended:
            passed = await self._more()
        if self._ended:
            await self._recording.written()
        return passed or None

    async def aclose(self) -> None:
        """End the story where it stands: if it is not over, the caller has left. Waits for nothing."""
        if not self._ended:
            self._close(ClientGone("the caller left before the answer was complete"))
        await self._stream.aclose()

    async def _more(self) -> bytes:
        try:
            events = await self._stream.next()
            if events is None:
                return self._end()
            passed, error = self._pass(events)
        except UpstreamError as err:
            return self._cut(err)
        except Exception as err:
            # The outer wall of a stream: the caller gets an error event, not a silent end.
            logger.exception("event=stream_bug interaction_id=%s", self._recording.interaction_id)
            return self._cut(LlmopsError(f"the server failed in a way nobody foresaw ({type(err).__name__})"))
        return passed if error is None else passed + self._cut(error)

    def _pass(self, events: list[bytes]) -> tuple[bytes, Cut | None]:
        """What of the events is sent on, as it came or in the caller's wire, up to the first that is none."""
        passed = b""
        try:
            for event in events:
                chunk = self._noted(event)
                if self._telling is not None:
                    passed += self._telling.take(chunk)
                elif (kept := self._kept(event, chunk)) is not None:
                    passed += encode(kept)
        except Cut as err:
            return passed, err
        return passed, None

    def _noted(self, event: bytes) -> Mapping[str, Any]:
        """One event as a chunk, kept for the record."""
        chunk = _chunk(event)
        self._chunks.append(chunk)
        for choice in chunk.get("choices") or ():
            index = choice.get("index")
            found = self._finished if choice.get("finish_reason") else self._begun
            found.add(index if isinstance(index, int) else 0)
        return chunk

    def _kept(self, event: bytes, chunk: Mapping[str, Any]) -> bytes | None:
        """What of one event is sent on; None for an event the caller did not ask for."""
        if chunk.get("choices"):
            if self._adds_usage and chunk.get("usage") is not None:
                # ChatDatabricks counts the usage of a chunk with choices twice; it gets it in a chunk of its own.
                return orjson.dumps({key: value for key, value in chunk.items() if key != "usage"})
            return event
        if chunk.get("usage") is None:
            return event
        self._usage_sent = True
        return event if self._keeps_usage else None

    def _end(self) -> bytes:
        if not self._finished or self._begun - self._finished:
            return self._cut(Cut("the upstream ended its answer in the middle"))
        # Before the record: what still waits is told now, and belongs to the answer.
        ended = self._telling.end(self._counted()) if self._telling is not None else b""
        self._close(None)
        return ended or self._usage_chunk() + encode(DONE)

    def _usage_chunk(self) -> bytes:
        usage = next((chunk["usage"] for chunk in reversed(self._chunks) if chunk.get("usage") is not None), None)
        if not self._adds_usage or self._usage_sent or usage is None:
            return b""
        head = {key: value for key, value in self._chunks[-1].items() if key not in ("choices", "usage")}
        return encode(orjson.dumps({**head, "choices": [], "usage": usage}))

    def _cut(self, err: LlmopsError) -> bytes:
        """The last event of an answer that broke: an error, and no ``[DONE]``."""
        self._close(err)
        if self._telling is not None:
            return self._telling.error(err)
        error = {"message": err.message, "type": "upstream_error", "code": err.error_code}
        return encode(orjson.dumps({"error": error}))

    def _close(self, error: LlmopsError | None) -> None:
        self._ended = True
        usage = self._counted()
        response = self._response
        if response is not None and self._telling is not None:
            response = self._telling.document(usage, error)
        self._recording.streamed(response, error)

    def _counted(self) -> Usage | None:
        """The tokens of the answer, noted in the record; the chunks are joined for it, once."""
        recording = self._recording
        if not self._joined:
            self._joined, self._response = True, self._folded(recording.task)
            recording.usage = self._usage(recording.task, recording.invocation, self._response)
        return recording.usage

    def _folded(self, task: Task | None) -> dict[str, Any] | None:
        """The chunks joined; None where there are none, or nobody can join or write them."""
        if not self._chunks or task is None:
            return None
        try:
            folded = _FOLD[task](self._chunks)
            orjson.dumps(folded)
        except (TypeError, ValueError, KeyError, AttributeError, RecursionError) as err:
            # An upstream's odd chunk must not cost the record of the interaction.
            logger.warning("event=not_folded interaction_id=%s reason=%r", self._recording.interaction_id, str(err))
            return None
        return folded

    def _usage(self, task: Task | None, asked: Invocation | None, folded: Mapping[str, Any] | None) -> Usage | None:
        reported = Usage.read(folded or {})
        if reported is not None or task is None or asked is None:
            return reported
        return self._tokenizer.estimate(task, asked.body, folded or {})


def _chunk(event: bytes) -> dict[str, Any]:
    try:
        chunk = orjson.loads(event)
    except ValueError:
        raise Cut("the upstream sent an event that is not JSON") from None
    if not isinstance(chunk, dict):
        raise Cut("the upstream sent an event that is not a JSON object")
    choices = chunk.get("choices")
    if choices is not None and not (isinstance(choices, list) and all(isinstance(one, dict) for one in choices)):
        raise Cut("the upstream sent an event whose 'choices' are no list of objects")
    if chunk.get("error") is not None:
        raise Cut(f"the upstream ended its answer with an error: {orjson.dumps(chunk['error']).decode()[:500]}")
    return chunk
