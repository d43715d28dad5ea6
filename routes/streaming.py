"""Sending a reply, and noticing that the caller has left: plain ASGI, because every layer costs on this path."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from llmops.gateway.pipeline import Reply
from llmops.gateway.relay import Relay

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

#: A caller's leaving is looked for only in requests that take longer: the watch costs a task.
WATCH_AFTER_S = 0.05


class Watch:
    """Cancels the task it was made in when the caller leaves."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._serving = asyncio.current_task()
        self._task: asyncio.Task[None] | None = None
        self._timer = asyncio.get_running_loop().call_later(WATCH_AFTER_S, self._begin)
        #: Whether the caller left; a cancellation without it comes from the server's shutdown.
        self.gone = False

    def close(self) -> None:
        """Stop watching."""
        self._timer.cancel()
        if self._task is not None:
            self._task.cancel()

    def _begin(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._wait())

    async def _wait(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.gone = True
        if self._serving is not None:
            self._serving.cancel()


async def send_whole(send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    """Send an answer that is complete."""
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body})


async def send_reply(send: Send, reply: Reply) -> None:
    """Send an answer, piece by piece where it is a stream; its relay is closed however this ends."""
    if not isinstance(reply.body, Relay):
        return await send_whole(send, reply.status, reply.headers, reply.body)
    try:
        await send({"type": "http.response.start", "status": reply.status, "headers": reply.headers})
        while (piece := await reply.body.next()) is not None:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
    finally:
        # Waits for nothing, so it is safe while this task is being cancelled.
        await reply.body.aclose()
    return None
