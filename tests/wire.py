"""One HTTP/1.1 exchange as the scripted upstream sees it: the request it read, and the reply it plays in pieces."""

import asyncio
import re
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from enum import Enum
from http.client import responses
from typing import Any, Self

import orjson

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it came.

    Attributes:
        headers: Names in lower case; of a repeated header the last one.
        received_at: Of its last byte, on the clock of `time.monotonic`.
        connection: Number of the connection it came on, from 1: two requests with the same one reused it.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    received_at: float
    connection: int

    @property
    def json(self) -> Any:
        """The body, parsed; an empty object where it is empty."""
        return orjson.loads(self.body or b"{}")

    @classmethod
    def read(cls, received: bytes, received_at: float, connection: int) -> tuple[Self, bytes] | None:
        """Take one request off the front of what a connection received.

        Returns:
            The request and the bytes after it; None where more must come.

        Raises:
            ValueError: The body is chunked, which the scripted upstream does not read.
        """
        head, blank, rest = received.partition(b"\r\n\r\n")
        if not blank:
            return None
        found = _LENGTH.search(head)
        length = int(found[1]) if found else 0
        if len(rest) < length:
            return None
        first, *lines = head.decode("latin-1").split("\r\n")
        method, path, _ = first.split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        if "transfer-encoding" in headers:
            raise ValueError("the scripted upstream reads only bodies with a content-length")
        return cls(method, path, headers, rest[:length], received_at, connection), rest[length:]


class Gate:
    """A place in a reply where the upstream waits until the test opens it, from any thread."""

    def __init__(self) -> None:
        self._opened: Future[None] = Future()

    def open(self) -> None:
        """Let everyone pass, now and later."""
        if not self._opened.done():
            self._opened.set_result(None)

    async def passed(self) -> None:
        """Wait until it is open."""
        # Shielded: a client that leaves while we wait must not close the gate for the others.
        await asyncio.shield(asyncio.wrap_future(self._opened))


@dataclass(frozen=True, slots=True)
class Gap:
    """A rest between two writes, so that loopback delivers them as two packets."""

    seconds: float = 0.002


class End(Enum):
    """How a reply ends."""

    KEEP = "the connection is kept for the next request"
    CLOSE = "FIN"
    RESET = "RST"
    STALL = "nothing more is sent, the connection stays open until the client closes it"


Piece = bytes | Gate | Gap


@dataclass(frozen=True, slots=True)
class Reply:
    """What the upstream writes.

    Attributes:
        head: Status line and headers, with their blank line; empty where not even these are sent.
        pieces: The body; each bytes is one write. May be lazy.
        chunked: Every piece becomes one HTTP chunk, and KEEP ends with the empty one.
    """

    head: bytes
    pieces: Iterable[Piece]
    chunked: bool = False
    ending: End = End.KEEP

    def frame(self, piece: bytes) -> bytes:
        """One piece as it goes on the wire."""
        return b"%x\r\n%b\r\n" % (len(piece), piece) if self.chunked and piece else piece

    @property
    def last(self) -> bytes:
        """What tells the client that the body is complete."""
        return b"0\r\n\r\n" if self.chunked and self.ending is End.KEEP else b""


Script = Callable[[Request], Reply]


def head(code: int, headers: Mapping[str, str]) -> bytes:
    """Write a status line and headers."""
    lines = [f"HTTP/1.1 {code} {responses.get(code, 'Scripted')}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")
