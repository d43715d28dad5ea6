"""What goes wrong upstream: replies that break, lie or stall, and ways to break any other.

Those that take a script (`split`, `crlf`, `cut` ...) change only the body's pieces, so they compose:
``one_byte_chunks(crlf(chat_stream(["é"])))``.
"""

import gzip
import zlib
from collections.abc import Iterable
from dataclasses import replace
from itertools import chain, islice, repeat

from tests.scripts import JSON, SSE, WORDS, chat, chat_stream, document, whole
from tests.wire import End, Gap, Piece, Reply, Request, Script, head

_BLOCK = b"x" * 65536


def raw(data: bytes, ending: End = End.CLOSE) -> Script:
    """These bytes and nothing else, not even a status line."""
    return lambda request: Reply(b"", (data,), ending=ending)


def accept_and_stall() -> Script:
    """Read the request and never answer."""
    return raw(b"", End.STALL)


def reset_before_headers() -> Script:
    """Read the request and reset the connection."""
    return raw(b"", End.RESET)


def html(text: str = "<!doctype html><title>Log in</title>", code: int = 200) -> Script:
    """A page where JSON was asked for: a captive portal, a load balancer."""
    return whole(text.encode(), code=code, content_type="text/html; charset=utf-8")


def error_with_200() -> Script:
    """An error that claims success."""
    return document({"error": {"message": "scripted error with status 200", "type": "server_error", "code": None}})


def cut_stream(after: int, words: Iterable[str] = WORDS) -> Script:
    """A chat stream whose connection closes cleanly after that many words: no finish_reason, no ``[DONE]``.

    It promises no length and no chunks, so HTTP cannot tell the cut from an end. For a cut HTTP can tell, use
    ``cut(chat_stream(), after)``.
    """
    closing = head(200, SSE | {"connection": "close"})
    return lambda request: replace(cut(chat_stream(words), after)(request), head=closing, chunked=False)


def stall_between_chunks(after: int, words: Iterable[str] = WORDS) -> Script:
    """A chat stream that falls silent after that many words; the connection stays open."""
    return cut(chat_stream(words), after, End.STALL)


def reset_in_body(after: int = 20, script: Script | None = None) -> Script:
    """A reply (default: `chat`) whose connection is reset after that many bytes of the body."""
    return cut(split(script or chat(), [after]), 1, End.RESET)


def wrong_length(by: int = 10, text: str = "".join(WORDS)) -> Script:
    """A chat completion that promises `by` bytes more than it sends, or less where negative, and closes."""

    def reply(request: Request) -> Reply:
        body = _body(chat(text)(request))
        promised = whole(body, headers={"content-length": str(len(body) + by)})(request)
        return replace(promised, ending=End.CLOSE)

    return reply


def big(size_bytes: int = 100_000_000) -> Script:
    """A valid chat completion whose text is that long, made while it is sent."""

    def reply(request: Request) -> Reply:
        before, _, after = _body(chat("|")(request)).partition(b"|")
        length = len(before) + size_bytes + len(after)
        whole_head = head(200, {"content-type": JSON, "content-length": str(length)})
        blocks = repeat(_BLOCK, size_bytes // len(_BLOCK))
        return Reply(whole_head, chain([before], blocks, [_BLOCK[: size_bytes % len(_BLOCK)], after]))

    return reply


def gzipped(script: Script) -> Script:
    """The same body, compressed, whether the client accepts that or not."""

    def reply(request: Request) -> Reply:
        body = gzip.compress(_body(script(request)))
        return whole(body, headers={"content-encoding": "gzip"})(request)

    return reply


def bomb(size_bytes: int) -> Script:
    """A thousandth of that many bytes, which become so many zeros where they are unpacked."""
    packer = zlib.compressobj(wbits=16 + zlib.MAX_WBITS)
    packed = b"".join(packer.compress(bytes(1 << 20)) for _ in range(size_bytes >> 20)) + packer.flush()
    return whole(packed, headers={"content-encoding": "gzip"})


def cut(script: Script, after: int, ending: End = End.CLOSE) -> Script:
    """The head and the first `after` pieces of a reply, and then its end."""

    def reply(request: Request) -> Reply:
        whole_reply = script(request)
        return replace(whole_reply, pieces=tuple(islice(whole_reply.pieces, after)), ending=ending)

    return reply


def then(script: Script, *pieces: Piece) -> Script:
    """More pieces after the last one: events after ``[DONE]``, garbage after a body."""

    def reply(request: Request) -> Reply:
        before = script(request)
        return replace(before, pieces=(*before.pieces, *pieces))

    return reply


def split(script: Script, at: Iterable[int]) -> Script:
    """The same body, in packets that end at these offsets: inside a character, a line, a line ending."""
    bounds = [0, *sorted(at)]

    def reply(request: Request) -> Reply:
        before = script(request)
        body = _body(before)
        parts = [body[start:stop] for start, stop in zip(bounds, [*bounds[1:], len(body)], strict=True)]
        return replace(before, pieces=tuple(piece for part in parts for piece in (part, Gap()))[:-1])

    return reply


def one_byte_chunks(script: Script) -> Script:
    """The same body, byte by byte."""

    def reply(request: Request) -> Reply:
        before = script(request)
        return replace(before, pieces=tuple(bytes((byte,)) for byte in _body(before)))

    return reply


def crlf(script: Script) -> Script:
    """The same events, their lines ended with CR LF."""

    def reply(request: Request) -> Reply:
        before = script(request)
        ended = (piece.replace(b"\n", b"\r\n") if isinstance(piece, bytes) else piece for piece in before.pieces)
        return replace(before, pieces=tuple(ended))

    return reply


def noisy(script: Script) -> Script:
    """The same events among what clients must ignore: comments, unknown fields, an event that has no data."""
    noise = b": keep-alive\n\nevent: ping\n\nid: 7\nretry: 3000\nfuture: field\n\n"

    def reply(request: Request) -> Reply:
        before = script(request)
        return replace(before, pieces=tuple(piece for kept in before.pieces for piece in (noise, kept)))

    return reply


def _body(reply: Reply) -> bytes:
    return b"".join(piece for piece in reply.pieces if isinstance(piece, bytes))
