"""A scripted upstream: a real server on loopback that answers each request with the bytes and breaks of a script.

    with Upstream() as upstream:
        upstream.always(chat("Hello."))                    # what every request gets ...
        upstream.play(status(429), cut_stream(after=2))    # ... except the next two
        call_the_code_under_test(f"{upstream.url}/v1")

        assert upstream.requests[0].json["model"] == "m"
        upstream.wait_for(lambda: upstream.cancelled == 1)  # an event, no sleep

What it says is in tests/scripts.py, what goes wrong in tests/faults.py; a new behaviour is a function from a
`Request` to a `Reply` (tests/wire.py).
"""

import asyncio
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Self

from tests.scripts import status
from tests.wire import End, Gap, Gate, Reply, Request, Script

#: Linger on, for 0 seconds: closing sends RST.
_RESET = struct.pack("ii", 1, 0)


def refused_url() -> str:
    """A URL nobody listens on.

    Port 1 on purpose: a port that was free a moment ago may be given to the next server of another test.
    """
    return "http://127.0.0.1:1"


class Ear:
    """Listens on another address of this machine, on the port of an upstream; a context manager."""

    def __init__(self, address: str, upstream: "Upstream") -> None:
        self._socket = socket.create_server((address, int(upstream.url.rpartition(":")[2])))
        self._socket.setblocking(False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._socket.close()

    @property
    def heard(self) -> bool:
        """Whether somebody connected since it was asked last."""
        try:
            connection, _ = self._socket.accept()
        except BlockingIOError:
            return False
        connection.close()
        return True


class Upstream:
    """A server in its own thread. Everything here may be called from any thread.

    Attributes:
        url: ``http://127.0.0.1:PORT``, without a path; known once entered.
    """

    def __init__(self) -> None:
        self.url = ""
        self._changed = threading.Condition()
        self._requests: list[Request] = []
        self._queue: deque[Script] = deque()
        self._default: Script = status(500, {"error": {"message": "the test scripted no reply to this request"}})
        self._connections: set[_Connection] = set()
        self._accepted = 0
        self._cancelled = 0
        self._started: Future[str] = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="upstream", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self.url = self._started.result(timeout=10)
        return self

    def __exit__(self, *exc: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(timeout=10)

    def play(self, *replies: Script) -> None:
        """Answer the next requests with these, one each, after those already queued."""
        with self._changed:
            self._queue.extend(replies)

    def always(self, reply: Script) -> None:
        """Answer with this whenever the queue is empty."""
        with self._changed:
            self._default = reply

    def forget(self) -> None:
        """Drop what is queued; for a test that begins after one that failed."""
        with self._changed:
            self._queue.clear()

    @property
    def requests(self) -> list[Request]:
        """Every request received so far, in order; a copy."""
        with self._changed:
            return list(self._requests)

    @property
    def open_connections(self) -> int:
        """Connections that neither side has closed."""
        with self._changed:
            return len(self._connections)

    @property
    def accepted(self) -> int:
        """Connections accepted since the start."""
        return self._accepted

    @property
    def cancelled(self) -> int:
        """Requests whose client closed before its reply was written."""
        return self._cancelled

    def wait_for(self, claim: Callable[[], bool], timeout: float = 10.0) -> None:
        """Wait until a claim about this upstream is true; it is looked at whenever something happened here.

        Raises:
            TimeoutError: It did not become true; says what was seen instead.
        """
        with self._changed:
            if self._changed.wait_for(claim, timeout):
                return
            seen = [f"{request.method} {request.path}" for request in self._requests]
            raise TimeoutError(f"{timeout} s: {self._cancelled} cancelled, {len(self._connections)} open, got {seen}")

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        server = await self._loop.create_server(lambda: _Connection(self), "127.0.0.1", 0)
        self._started.set_result(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        await self._stop.wait()
        server.close()
        for connection in list(self._connections):
            connection.transport.abort()
        await asyncio.sleep(0)  # The aborted transports close their sockets in the next turn of the loop.

    def opened(self, connection: "_Connection") -> int:
        """Count a connection in; returns its number."""
        with self._changed:
            self._connections.add(connection)
            self._accepted += 1
            self._changed.notify_all()
            return self._accepted

    def closed(self, connection: "_Connection", *, early: bool) -> None:
        """Count a connection out."""
        with self._changed:
            self._connections.discard(connection)
            self._cancelled += early
            self._changed.notify_all()

    def received(self, request: Request) -> Script:
        """Note a request; returns the script it is answered with."""
        with self._changed:
            self._requests.append(request)
            self._changed.notify_all()
            return self._queue.popleft() if self._queue else self._default


class _Connection(asyncio.Protocol):
    """One client: reads requests, plays one reply at a time, notices at once when the client leaves."""

    transport: asyncio.Transport

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._received = b""
        self._playing: asyncio.Task[None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._number = self._upstream.opened(self)

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self._playing is None:
            self._next()

    def connection_lost(self, exc: Exception | None) -> None:
        self._upstream.closed(self, early=self._playing is not None)
        self._writable.set()
        if self._playing is not None:
            self._playing.cancel()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def _next(self) -> None:
        read = Request.read(self._received, time.monotonic(), self._number)
        if read is None:
            return
        request, self._received = read
        self._playing = asyncio.ensure_future(self._play(self._upstream.received(request)(request)))

    async def _play(self, reply: Reply) -> None:
        self.transport.write(reply.head)
        for piece in reply.pieces:
            match piece:
                case bytes():
                    self.transport.write(reply.frame(piece))
                    await self._writable.wait()
                    await asyncio.sleep(0)  # A client that left is noticed between two writes.
                case Gate():
                    await piece.passed()
                case Gap():
                    await asyncio.sleep(piece.seconds)
        self.transport.write(reply.last)
        if reply.ending is End.STALL:
            await asyncio.Event().wait()
        self._playing = None
        self._end(reply.ending)

    def _end(self, ending: End) -> None:
        if ending is End.KEEP:
            self._next()
        elif ending is End.CLOSE:
            self.transport.close()
        else:
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self.transport.abort()
