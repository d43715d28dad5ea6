"""The fast path: a served entity that speaks OpenAI's wire, reached with its bytes passing through.

Of the caller's body only the model is replaced; unknown fields survive by construction. Of the answer nothing changes.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from llmops.errors import UpstreamMalformed, UpstreamTimeout
from llmops.protocol.sse import DONE, Decoder
from llmops.providers.provider import Answer, Call, Limits
from llmops.providers.upstream import Body, Upstreams, refusal
from llmops.providers.veil import Veil
from llmops.providers.vendors import MAX_TOKENS, Dialect

_NOTHING = Veil(())
_PLAIN = Dialect()


@dataclass(frozen=True, slots=True)
class Place:
    """Where a call goes, with the key in its headers; made for one call, kept by nobody.

    Attributes:
        veil: Hides its keys in what comes back: some upstreams repeat them in their errors.
    """

    url: str
    headers: Mapping[str, str] = field(repr=False)
    veil: Veil = field(default=_NOTHING, repr=False)


class OpenAiCompatible:
    """A provider behind one URL of OpenAI's wire.

    Args:
        who: The served entity, for messages.
        model: Put in place of the caller's.
        place: Asked at every call, so that a rotated key or a restarted engine needs no new provider. May raise
            EndpointNotReady or Unavailable.
        dialect: How this server wants bodies that were translated here.
    """

    def __init__(
        self, who: str, model: str, place: Callable[[], Place], upstreams: Upstreams, *, dialect: Dialect = _PLAIN
    ) -> None:
        self._who = who
        self._model = model
        self._place = place
        self._upstreams = upstreams
        self._dialect = dialect

    async def answer(self, call: Call) -> Answer:
        """Ask for a whole answer; see `Provider`."""
        place = self._place()
        sent, headers, limit_s = self._body(call), _headers(call, place), call.limits.total_s
        status, answered, body = await self._upstreams.fetch("POST", place.url, headers, sent, limit_s, self._who)
        body = place.veil.hide(body)
        if not 200 <= status < 300:
            raise refusal(status, answered, body, self._who)
        return Answer(status, body, _document(body, self._who))

    async def stream(self, call: Call) -> "EventStream":
        """Ask for a streamed answer; see `Provider`."""
        place, limits = self._place(), call.limits
        sent, headers = self._body(call), _headers(call, place)
        body = await self._upstreams.open(place.url, headers, sent, limits.first_byte_s, self._who)
        status, answered = body.response.status, dict(body.response.headers.items())
        kind, packed = answered.get("content-type") or "", answered.get("content-encoding") or "identity"
        if 200 <= status < 300 and kind.startswith("text/event-stream") and packed == "identity":
            return EventStream(body, limits, place.veil, self._who)
        text = place.veil.hide(await body.read(limits.between_chunks_s))
        await body.aclose()
        if not 200 <= status < 300:
            raise refusal(status, answered, text, self._who)
        shown = place.veil.hide_text(kind if packed == "identity" else f"{kind} packed as {packed}")
        raise UpstreamMalformed(
            f"{self._who} answered a streamed request with {shown or 'no content type'}, not events"
        )

    def _body(self, call: Call) -> bytes:
        body = {**call.body, "model": self._model}
        if call.translated:
            _fit(body, self._dialect)
        if call.stream:
            options = body.get("stream_options")
            body["stream_options"] = {**(options if isinstance(options, dict) else {}), "include_usage": True}
        return orjson.dumps(body)


class EventStream:
    """A streamed answer of an OpenAI-compatible upstream; its owner is whoever asked for it."""

    def __init__(self, body: Body, limits: Limits, veil: Veil, who: str) -> None:
        self._body = body
        self._decoder = Decoder()
        self._limit_s = self._first_event_s = limits.first_byte_s
        self._between_chunks_s = limits.between_chunks_s
        self._veil = veil
        self._who = who
        self._size_bytes, self._most_bytes = 0, limits.stream_bytes
        self._ended = False

    async def next(self) -> list[bytes] | None:
        """Wait for the next events; see `AnswerStream`.

        ``[DONE]`` ends the stream whatever comes after it. A stream that just stops is given as it is: whether its
        last chunk was the last one is for the relay to judge, which reads the chunks.
        """
        silent_until = None
        while not self._ended:
            piece = await self._body.next(self._limit_s)
            self._limit_s = self._between_chunks_s
            events = self._decode(piece)
            if DONE in events:
                self._ended = True
                events = events[: events.index(DONE)]
            if events:
                return events
            # Comments are signs of life; what they keep open may take as long as the first event, and no longer.
            now = time.monotonic()
            silent_until = now + self._first_event_s if silent_until is None else silent_until
            if now >= silent_until:
                raise UpstreamTimeout(f"{self._who} sent no event within {self._first_event_s:g} s")
        return None

    def _decode(self, piece: bytes | None) -> list[bytes]:
        if piece is None:
            self._ended = True
            return [self._veil.hide(event) for event in self._decoder.close()]
        self._size_bytes += len(piece)
        if self._size_bytes > self._most_bytes:
            raise UpstreamMalformed(
                f"{self._who} sent more than {self._most_bytes} bytes; the rest is not taken (LLMOPS_STREAM_MAX_MB)"
            )
        try:
            return [self._veil.hide(event) for event in self._decoder.feed(piece)]
        except ValueError as err:
            raise UpstreamMalformed(f"{self._who}: {err}") from None

    async def aclose(self) -> None:
        """Let go of the connection."""
        await self._body.aclose()


def _fit(body: dict[str, Any], dialect: Dialect) -> None:
    """Say a body that was translated here in the words its server knows."""
    if MAX_TOKENS in body:
        body[dialect.limit] = body.pop(MAX_TOKENS)
    body["messages"] = [
        {name: value for name, value in message.items() if name not in dialect.unsaid} for message in body["messages"]
    ]


def _headers(call: Call, place: Place) -> dict[str, str]:
    return {"content-type": "application/json", **call.headers, **place.headers}


def _document(body: bytes, who: str) -> Mapping[str, Any]:
    try:
        document = orjson.loads(body)
    except ValueError:
        start = body[:60].decode("utf-8", "replace").strip()
        raise UpstreamMalformed(f"{who} answered with something that is not JSON: {start!r}") from None
    if not isinstance(document, dict):
        raise UpstreamMalformed(f"{who} answered with JSON that is not an object")
    if "error" in document and "choices" not in document and "data" not in document:
        raise UpstreamMalformed(f"{who} answered 200 with an error: {orjson.dumps(document['error']).decode()[:500]}")
    return document
