"""HTTP to upstreams: one pool of connections, every wait with a limit, and failures as our errors.

A call that is cancelled here is cancelled upstream at once, whether its answer has begun or not (pyreqwest, twice as
fast, lets a request whose answer has not begun run on: a person would pay for an answer nobody reads). Redirects are
never followed: a redirect would carry a key to a place the endpoint's document does not name.
"""

import asyncio
import contextlib
from collections.abc import Mapping, Sequence

from pyqwest import (
    Client,
    Headers,
    HTTPTransport,
    Proxy,
    ReadError,
    RemoteProtocolError,
    Request,
    Response,
    WriteError,
)

from llmops.errors import UpstreamError, UpstreamMalformed, UpstreamStatus, UpstreamTimeout, UpstreamUnreachable
from llmops.providers.compression import ACCEPTED, too_large, unpack

CONNECT_TIMEOUT_S = 5.0
#: An answer that is larger is not passed on: it would be logged and traced.
MAX_ANSWER_BYTES = 64 * 1024 * 1024
#: Of an upstream's error body, this much is shown and kept.
ERROR_PREVIEW_CHARS = 2000
#: What a call can end with besides an answer.
FAILURES = (OSError, RemoteProtocolError, ReadError, WriteError, ValueError, RuntimeError)
LONGEST_RETRY_AFTER_S = 3600
#: Stands where the environment's proxy would, and is used for no name and no address.
_NO_PROXY = Proxy("http://127.0.0.1:9", no_proxy="*,0.0.0.0/0,::/0")


def connections(addresses: Mapping[str, Sequence[str]] | None = None) -> HTTPTransport:
    """A pool of connections.

    Args:
        addresses: Of hosts, by name: for these nobody is asked, and no proxy is used for anything. None: every name is
            resolved, and the proxies of the environment are used.
    """
    return HTTPTransport(
        tls_include_system_certs=True,
        connect_timeout=CONNECT_TIMEOUT_S,
        pool_max_idle_per_host=256,
        follow_redirects=False,
        enable_otel=False,
        # Unpacked here, where there is a limit.
        enable_gzip=False,
        enable_brotli=False,
        enable_zstd=False,
        dns_overrides=addresses,
        proxy=_NO_PROXY if addresses is not None else None,
    )


class Upstreams:
    """The HTTP client of a process; opened once, closed with `aclose`."""

    def __init__(self) -> None:
        self._transport = connections()

    async def fetch(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, limit_s: float, who: str
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Send a request and read its whole response.

        Args:
            limit_s: For all of it.
            who: The served entity or child, for messages.

        Returns:
            Status, headers by lower-case name, body, unpacked.

        Raises:
            UpstreamError: No connection, no answer in time, one that broke off, or one larger than MAX_ANSWER_BYTES.
        """
        try:
            async with asyncio.timeout(limit_s):
                way = await self._way(url, who)
                sent = {**headers, "accept-encoding": ACCEPTED}
                status, answered, content = await self._whole(way, method, url, sent, body)
        except FAILURES as err:
            raise failure(err, who, limit_s) from None
        if len(content) > MAX_ANSWER_BYTES:
            raise too_large(MAX_ANSWER_BYTES, who)
        found = dict(answered.items())
        if encoding := found.get("content-encoding"):
            content = unpack(content, encoding, MAX_ANSWER_BYTES, who)
        return status, found, content

    async def open(self, url: str, headers: Mapping[str, str], body: bytes, limit_s: float, who: str) -> "Body":
        """Post a request and wait for the head of its response.

        Raises:
            UpstreamError: No connection, or no answer in time.
        """
        try:
            async with asyncio.timeout(limit_s):
                way = await self._way(url, who)
                return Body(await way.execute(Request("POST", url, Headers(headers.items()), body)), who)
        except FAILURES as err:
            raise failure(err, who, limit_s) from None

    async def _way(self, url: str, who: str) -> HTTPTransport:
        """The connections a URL may use."""
        return self._transport

    async def _whole(
        self, way: HTTPTransport, method: str, url: str, headers: Mapping[str, str], body: bytes | None
    ) -> tuple[int, Headers, bytes]:
        """Send a request and read its response as it comes over the wire, packed or not.

        In one go: to look at every piece takes twice the CPU of a call. What a trusted place sends is bounded by time.
        """
        response = await Client(way).execute(method, url, headers, body)
        return response.status, response.headers, response.content

    async def aclose(self) -> None:
        """Close every connection."""
        await self._transport.aclose()


class Body:
    """The body of a streamed response, piece by piece, with a time limit for each."""

    def __init__(self, response: Response, who: str) -> None:
        self.response = response
        self._pieces = aiter(response.content)
        self._who = who

    async def next(self, limit_s: float) -> bytes | None:
        """The next piece; None at the end.

        Raises:
            UpstreamError: It broke, or nothing came within the limit.
        """
        try:
            async with asyncio.timeout(limit_s):
                return bytes(await anext(self._pieces))
        except StopAsyncIteration:
            return None
        except FAILURES as err:
            raise failure(err, self._who, limit_s) from None

    async def read(self, limit_s: float, most: int = 1 << 16) -> bytes:
        """The rest of the body, or as much as comes in time and fits; for error bodies, so it never raises.

        Args:
            limit_s: For all of it.
        """
        got = b""
        with contextlib.suppress(UpstreamError, TimeoutError):
            async with asyncio.timeout(limit_s):
                while len(got) < most and (piece := await self.next(limit_s)) is not None:
                    got += piece
        return got

    async def aclose(self) -> None:
        """Drop the connection if the body is not at its end. Does not wait for anything."""
        await self.response.aclose()


def failure(err: Exception, who: str, limit_s: float) -> UpstreamError:
    """Say what went wrong in our words; the addresses in the client's message stay out."""
    if isinstance(err, TimeoutError):
        return UpstreamTimeout(f"{who} did not answer within {limit_s:g} s")
    reason = str(err).rsplit(": ", 1)[-1]
    if isinstance(err, ValueError | RuntimeError):
        # The client refuses to send it, and shows the value in its message.
        return UpstreamUnreachable(f"{who} cannot be asked: its URL or one of its headers is not valid")
    if isinstance(err, ReadError | RemoteProtocolError):
        return UpstreamMalformed(f"{who} broke off in the middle of its answer ({reason})")
    return UpstreamUnreachable(f"{who} cannot be reached ({reason})")


def refusal(status: int, headers: Mapping[str, str], body: bytes, who: str) -> UpstreamError:
    """The error for a response that is not a success."""
    shown = " ".join(body[: ERROR_PREVIEW_CHARS * 4].decode("utf-8", "replace").split())[:ERROR_PREVIEW_CHARS]
    if 300 <= status < 400:
        return UpstreamMalformed(f"{who} answered with a redirect ({status}), which is not followed; correct its URL")
    message = f"{who} answered {status}: {shown or 'no body'}"
    if status == 401:
        message = f"{who} refused the endpoint's credentials (401): {shown or 'no body'}"
    return UpstreamStatus(message, upstream_status=status, retry_after_s=_seconds(headers.get("retry-after")))


def _seconds(value: str | None) -> int | None:
    if value is None or not (value.isascii() and value.isdigit()):
        return None
    return min(int(value[:9]), LONGEST_RETRY_AFTER_S)
