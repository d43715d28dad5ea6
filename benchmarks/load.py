"""A load generator that is faster than what it measures: `python -m benchmarks.load --url URL`.

Closed loop: every connection sends its next request when its answer is complete. Open loop (``--rate``): requests
become due at a fixed rate whatever the server does, wait for a free connection, and their latency counts from when they
were due, so that a server that stalls cannot hide the requests it kept waiting.
"""

import argparse
import asyncio
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from urllib.parse import urlsplit

import httptools
import orjson
import uvloop

from benchmarks.tally import Tally

MESSAGES = [
    {"role": "system", "content": "You are terse and friendly."},
    {"role": "user", "content": "Say something about the sea, in one or two short sentences, please."},
]

_EVENT = b"data: "
_DONE = b"data: [DONE]"


@dataclass(frozen=True, slots=True)
class Plan:
    """One run.

    Attributes:
        url: Where every request is sent.
        connections: Kept alive; at most that many requests are under way.
        seconds: Requests are sent for that long.
        drain_s: Answers are waited for that much longer.
        rate: Requests per second in open loop; None for closed loop.
        stream: Whether answers are server-sent events that must end in ``[DONE]``.
        gap_ms: Asks `benchmarks.upstream` to pace its stream; 0 asks for nothing.
        body: JSON of every request; None sends one of our own.
    """

    url: str
    connections: int = 32
    seconds: float = 6.0
    rate: float | None = None
    stream: bool = False
    gap_ms: int = 0
    body: bytes | None = None
    drain_s: float = 5.0

    @property
    def request(self) -> bytes:
        """The bytes of every request."""
        place, body = urlsplit(self.url), self.body or self._own_body()
        head = f"POST {place.path or '/'} HTTP/1.1\r\nhost: {place.netloc}\r\ncontent-type: application/json\r\n"
        return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body

    def _own_body(self) -> bytes:
        streamed = {"stream": True} if self.stream else {}
        paced = {"gap_ms": self.gap_ms} if self.gap_ms else {}
        return orjson.dumps({"model": "m", "messages": MESSAGES} | streamed | paced)


class AnswerError(Exception):
    """An answer that did not come whole; the text is the name it is counted under."""


class Connection(asyncio.Protocol):
    """One keep-alive connection with one request under way at a time. Answers have a length or are chunked."""

    transport: asyncio.Transport

    def __init__(self, tally: Tally, *, stream: bool) -> None:
        self._tally = tally
        self._stream = stream
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpResponseParser(self)
        self._answer: asyncio.Future[None] | None = None
        self._due = self._first_byte = 0.0
        self._tail = b""

    def ask(self, request: bytes, due: float) -> "asyncio.Future[None]":
        """Send; the result is there when the answer is complete and counted.

        Raises:
            AnswerError: From the future.
        """
        self._due, self._first_byte, self._tail = due, 0.0, b""
        self._answer = self._loop.create_future()
        self.transport.write(request)
        return self._answer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # uvloop's own class

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._break("malformed")
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._break("cut" if self._first_byte else "reset")

    def on_body(self, piece: bytes) -> None:
        """Parser callback: a piece of the body."""
        if not self._first_byte:
            self._first_byte = perf_counter()
        self._tally.body_bytes += len(piece)
        if self._stream:
            text = self._tail + piece
            self._tally.events += text.count(_EVENT) - self._tail.count(_EVENT)
            self._tail = text[-len(_DONE) - 4 :]

    def on_message_complete(self) -> None:
        """Parser callback: the answer is whole."""
        status, tally, done = self._parser.get_status_code(), self._tally, perf_counter()
        tally.statuses[status] += 1
        if status == 200 and self._stream and _DONE not in self._tail:
            tally.errors["no_done"] += 1
        elif status == 200:
            tally.events -= self._stream
            tally.answered += 1
            tally.latencies.append(done - self._due)
            tally.first_bytes.append((self._first_byte or done) - self._due)
        if not self._parser.should_keep_alive():
            self.transport.close()
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(None)
        self._answer = None

    def _break(self, how: str) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(AnswerError(how))
        self._answer = None


async def run(plan: Plan) -> Tally:
    """Play a plan; every connection is closed when it returns."""
    tally, queue = Tally(), asyncio.Queue[float | None]()
    started = perf_counter()
    ticker = asyncio.create_task(_tick(plan, queue, started))
    moments = [_now(started + plan.seconds) if plan.rate is None else _queued(queue) for _ in range(plan.connections)]
    workers = [asyncio.create_task(_work(plan, tally, due)) for due in moments]
    done, late = await asyncio.wait(workers, timeout=plan.seconds + plan.drain_s)
    for task in (ticker, *late):
        task.cancel()
    await asyncio.gather(ticker, *late, return_exceptions=True)
    for worker in done:
        worker.result()  # What a worker did not expect is ours, and no number is true then.
    if never_asked := sum(queue.get_nowait() is not None for _ in range(queue.qsize())):
        tally.errors["unfinished"] += never_asked
    tally.seconds = perf_counter() - started
    return tally


async def _work(plan: Plan, tally: Tally, moments: AsyncIterator[float]) -> None:
    """Ask on one connection whenever a request is due; reconnect when it breaks, give up when nobody listens."""
    request = plan.request
    connection = await _connect(plan, tally)
    if connection is None:
        return
    async for due in moments:
        try:
            await connection.ask(request, due)
        except AnswerError as err:
            tally.errors[str(err)] += 1
        except asyncio.CancelledError:
            tally.errors["unfinished"] += 1
            connection.transport.abort()
            raise
        if connection.transport.is_closing():
            connection = await _connect(plan, tally)
            if connection is None:
                return
    connection.transport.close()


async def _connect(plan: Plan, tally: Tally) -> Connection | None:
    place, loop = urlsplit(plan.url), asyncio.get_running_loop()
    try:
        _, made = await loop.create_connection(
            lambda: Connection(tally, stream=plan.stream), place.hostname or "127.0.0.1", place.port or 80
        )
    except OSError:
        tally.errors["connect"] += 1
        return None
    return made


async def _now(until: float) -> AsyncIterator[float]:
    """Closed loop: a request is due as soon as the last one is answered."""
    while (now := perf_counter()) < until:
        yield now


async def _queued(queue: "asyncio.Queue[float | None]") -> AsyncIterator[float]:
    """Open loop: the next moment nobody has taken; None ends one worker."""
    while (due := await queue.get()) is not None:
        yield due


async def _tick(plan: Plan, queue: "asyncio.Queue[float | None]", started: float) -> None:
    """Fill the queue at the plan's rate. A moment is when it is put there: timers are exact to a millisecond only."""
    for count in range(int((plan.rate or 0) * plan.seconds)):
        await asyncio.sleep(max(0.0, started + count / (plan.rate or 1) - perf_counter()))
        queue.put_nowait(perf_counter())
    for _ in range(plan.connections):
        queue.put_nowait(None)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--rate", type=float, help="requests per second, open loop; default: closed loop")
    parser.add_argument("--stream", action="store_true")
    parser.add_argument("--gap-ms", type=int, default=0, help="asks benchmarks.upstream to pace its stream")
    parser.add_argument("--body", type=Path, metavar="FILE", help="JSON of every request")
    parser.add_argument("--json", action="store_true", help="one line, for programs")
    return parser.parse_args()


def main() -> None:
    """Play the plan of the command line and write the summary."""
    given = _options()
    body = given.body.read_bytes() if given.body else None
    plan = Plan(given.url, given.connections, given.seconds, given.rate, given.stream, given.gap_ms, body)
    summary = uvloop.run(run(plan)).summary()
    sys.stdout.write(orjson.dumps(summary, option=0 if given.json else orjson.OPT_INDENT_2).decode() + "\n")


if __name__ == "__main__":
    main()
