"""The baseline: the least a Python proxy can do. `python -m benchmarks.passthrough --upstream URL`.

A bare ASGI application on uvicorn (uvloop, httptools) with one pyqwest client. It reads the body, forwards it, and
gives back the bytes. It looks for ``"stream": true``, to know what to relay, and at nothing else: no routing, no log.
"""

import argparse
import re
import socket
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import orjson
import uvicorn
import uvloop
from pyqwest import Client, Headers, HTTPTransport, Request

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_JSON = Headers([("content-type", "application/json")])
_STREAM = re.compile(rb'"stream": *true')


class Passthrough:
    """The ASGI application.

    Args:
        url: Every request goes there, whatever its path.
    """

    def __init__(self, transport: HTTPTransport, url: str) -> None:
        self._transport = transport
        self._client = Client(transport)
        self._url = url

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Forward one request."""
        body = await _body(receive)
        if _STREAM.search(body):
            async with await self._transport.execute(Request("POST", self._url, _JSON, body)) as response:
                await send(_start(response.status, response.headers.get("content-type")))
                async for piece in response.content:
                    await send({"type": "http.response.body", "body": bytes(piece), "more_body": True})
                await send({"type": "http.response.body", "body": b""})
            return
        answer = await self._client.post(self._url, _JSON, body)
        await send(_start(answer.status, answer.headers.get("content-type"), len(answer.content)))
        await send({"type": "http.response.body", "body": answer.content})


async def _body(receive: Receive) -> bytes:
    message = await receive()
    body: bytes = message["body"]
    while message.get("more_body"):
        message = await receive()
        body += message["body"]
    return body


def _start(status: int, content_type: str | None, length: int | None = None) -> Message:
    headers = [(b"content-type", (content_type or "application/octet-stream").encode())]
    if length is not None:
        headers.append((b"content-length", b"%d" % length))
    return {"type": "http.response.start", "status": status, "headers": headers}


async def _serve(upstream: str) -> None:
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    transport = HTTPTransport(pool_max_idle_per_host=256, follow_redirects=False, enable_otel=False)
    async with transport:
        config = uvicorn.Config(
            Passthrough(transport, upstream),
            loop="uvloop",
            http="httptools",
            lifespan="off",
            access_log=False,
            log_level="critical",  # What fails is counted by the load, not printed a thousand times.
        )
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        sys.stdout.write(orjson.dumps({"address": address}).decode() + "\n")
        sys.stdout.flush()
        await uvicorn.Server(config).serve(sockets=[listener])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--upstream", required=True, metavar="URL")
    uvloop.run(_serve(parser.parse_args().upstream))
