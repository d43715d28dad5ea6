"""The fixed fast upstream of the benchmarks: `python -m benchmarks.upstream`.

Parses just enough HTTP to know where a request ends and answers it with bytes made beforehand: a chat completion of 384
bytes, or, for ``"stream": true``, a stream of chunks: as fast as it can, or one every ``"gap_ms"`` the body asks for.
``GET /served`` tells how many it has answered.
"""

import argparse
import asyncio
import re
import sys
from dataclasses import asdict, dataclass
from typing import Any

import orjson
import uvloop

BODY_BYTES = 384

_STREAM = re.compile(rb'"stream": *true')
_USAGE = re.compile(rb'"include_usage": *true')
_GAP = re.compile(rb'"gap_ms": *(\d+)')
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
_STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


@dataclass(slots=True)
class Served:
    """What an upstream has answered since it started; a stream counts once its last chunk is written."""

    plain: int = 0
    streams: int = 0
    chunks: int = 0


class Answers:
    """The bytes of every answer, made once.

    Args:
        chunks: Of one stream, the one with the finish_reason included; ``[DONE]`` and usage come on top.
    """

    def __init__(self, chunks: int) -> None:
        self.chunks = chunks
        self.plain = _HEAD % BODY_BYTES + completion()
        self._words = [_framed(_chunk([_choice({"content": f" word{n % 100}"})])) for n in range(chunks - 1)]
        self._words.append(_framed(_chunk([_choice({}, "stop")])))
        self._usage = _framed(_chunk([], usage=_usage(chunks)))
        self._done = _framed(b"data: [DONE]\n\n") + b"0\r\n\r\n"

    def stream(self, *, usage: bool) -> list[bytes]:
        """The writes of one stream; usage as a last chunk without choices, where it was asked for."""
        return [_STREAM_HEAD + self._words[0], *self._words[1:], *([self._usage] if usage else []), self._done]


def completion() -> bytes:
    """A chat completion of exactly BODY_BYTES bytes."""
    empty = _completion("")
    return _completion("x" * (BODY_BYTES - len(empty)))


class Connection(asyncio.Protocol):
    """One keep-alive connection.

    Args:
        served: Counted up; shared by all connections.
    """

    transport: asyncio.Transport

    def __init__(self, answers: Answers, served: Served) -> None:
        self._answers = answers
        self._served = served
        self._gap_s = 0.0
        self._loop = asyncio.get_running_loop()
        self._received = b""
        self._writes: list[bytes] = []
        self._written = 0
        self._paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # uvloop's own class

    def connection_lost(self, exc: Exception | None) -> None:
        self._writes = []

    def data_received(self, data: bytes) -> None:
        self._received += data
        while not self._writes and (end := self._received.find(b"\r\n\r\n")) >= 0:
            length = _LENGTH.search(self._received, 0, end)
            stop = end + 4 + (int(length[1]) if length else 0)
            if len(self._received) < stop:
                return
            request, self._received = self._received[:stop], self._received[stop:]
            self._answer(request)

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._stream()

    def _answer(self, request: bytes) -> None:
        if request.startswith(b"GET "):
            body = orjson.dumps(asdict(self._served))
            self.transport.write(_HEAD % len(body) + body)
        elif _STREAM.search(request):
            gap = _GAP.search(request)
            self._gap_s = int(gap[1]) / 1000 if gap else 0.0
            self._writes, self._written = self._answers.stream(usage=_USAGE.search(request) is not None), 0
            self._stream()
        else:
            self._served.plain += 1
            self.transport.write(self._answers.plain)

    def _stream(self) -> None:
        if self._paused or not self._writes:
            return
        self.transport.write(self._writes[self._written])
        self._written += 1
        if self._written < len(self._writes):
            # One write each turn of the loop: uvloop joins what is written within one into a single packet.
            self._loop.call_later(self._gap_s, self._stream) if self._gap_s else self._loop.call_soon(self._stream)
            return
        self._served.streams += 1
        self._served.chunks += self._answers.chunks
        self._writes = []
        self.data_received(b"")


async def serve(port: int = 0, *, chunks: int = 200) -> tuple[asyncio.Server, Served]:
    """Start on loopback; the caller closes the server. Runs on any loop, fastest on uvloop."""
    answers, served = Answers(chunks), Served()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(answers, served), "127.0.0.1", port, backlog=1024)
    return server, served


def _framed(piece: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(piece), piece)


def _chunk(choices: list[dict[str, Any]], **more: Any) -> bytes:
    head = {"id": "chatcmpl-bench", "object": "chat.completion.chunk", "created": 1_750_000_000, "model": "m"}
    return b"data: " + orjson.dumps(head | {"choices": choices} | more) + b"\n\n"


def _choice(delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "finish_reason": finish_reason}


def _completion(text: str) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    head = {"id": "chatcmpl-bench", "object": "chat.completion", "created": 1_750_000_000, "model": "m"}
    return orjson.dumps(head | {"choices": [choice], "usage": _usage(24)})


def _usage(output_tokens: int) -> dict[str, int]:
    return {"prompt_tokens": 40, "completion_tokens": output_tokens, "total_tokens": 40 + output_tokens}


async def _main(options: argparse.Namespace) -> None:
    server, _ = await serve(options.port, chunks=options.chunks)
    port = server.sockets[0].getsockname()[1]
    sys.stdout.write(orjson.dumps({"address": f"http://127.0.0.1:{port}"}).decode() + "\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--chunks", type=int, default=200, help="of one stream")
    uvloop.run(_main(parser.parse_args()))
