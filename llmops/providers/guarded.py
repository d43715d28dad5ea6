"""Calls of endpoints that came over REST: every connection goes to an address that the rule of egress has looked at.

The HTTP client is told the addresses and never asks for a name itself, so the one that was looked at is the one that
is connected to. Each host has connections of its own: none is shared with a trusted endpoint.
"""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from pyqwest import Headers, HTTPTransport, Request

from llmops.errors import EndpointNotReady
from llmops.providers.egress import SETTING, Egress, host_of
from llmops.providers.provider import Answer, AnswerStream, Call, Provider
from llmops.providers.upstream import MAX_ANSWER_BYTES, Upstreams, connections

#: A name is asked for again after so long: the addresses of a vendor change.
FRESH_S = 30.0
#: So many hosts keep their connections; those of one cost about 100 kB and 8 ms to make.
MOST_POOLS = 256


@dataclass(slots=True)
class Pool:
    """Connections to the addresses of one host.

    Attributes:
        until: Of the monotonic clock; the name is asked for anew from then on.
    """

    addresses: tuple[str, ...]
    transport: HTTPTransport
    until: float


class Guarded(Upstreams):
    """The HTTP client for endpoints that are not trusted.

    A proxy of the environment is not used: it would connect to an address nobody here has looked at.

    Args:
        fresh_s: How long the addresses of a name are taken as they were.
    """

    def __init__(self, egress: Egress, fresh_s: float = FRESH_S) -> None:
        super().__init__()
        self.egress = egress
        self._fresh_s = fresh_s
        self._pools: dict[str, Pool] = {}

    async def _way(self, url: str, who: str) -> HTTPTransport:
        """The connections a URL may use; see `Upstreams`.

        Raises:
            EndpointNotReady: It leads where nothing may go.
            OSError: Its host has no address.
        """
        host, now = _host(url, who), time.monotonic()
        known = self._pools.get(host)
        if known is not None and now < known.until:
            return known.transport
        if known is not None:
            # Whoever comes meanwhile uses the addresses that were looked at before, and does not ask as well.
            known.until = now + self._fresh_s
        try:
            addresses = await self.egress.addresses(url)
        except EndpointNotReady as err:
            self._pools.pop(host, None)
            raise EndpointNotReady(f"{who}: {err.message}") from None
        except OSError:
            if known is None:
                raise
            return known.transport  # Nobody answers for the name; its addresses are still the ones looked at.
        return await self._pool(host, addresses)

    async def _whole(
        self, way: HTTPTransport, method: str, url: str, headers: Mapping[str, str], body: bytes | None
    ) -> tuple[int, Headers, bytes]:
        """As of `Upstreams`, and no more than a piece beyond the limit: such a place may send without end."""
        response = await way.execute(Request(method, url, Headers(headers.items()), body))
        got = bytearray()
        try:
            async for piece in response.content:
                got += piece
                if len(got) > MAX_ANSWER_BYTES:
                    break
        finally:
            await response.aclose()
        return response.status, response.headers, bytes(got)

    async def _pool(self, host: str, addresses: tuple[str, ...]) -> HTTPTransport:
        """The connections to these addresses: those that are there, or new ones."""
        if not self._known(host, addresses):
            # In a thread: it reads every certificate authority of the system.
            made = await asyncio.to_thread(connections, {host: addresses})
            if not self._known(host, addresses):  # Another call may have been faster.
                self._keep(host, Pool(addresses, made, 0.0))
        pool = self._pools[host]
        pool.until = time.monotonic() + self._fresh_s
        return pool.transport

    def _known(self, host: str, addresses: tuple[str, ...]) -> bool:
        return host in self._pools and self._pools[host].addresses == addresses

    def _keep(self, host: str, pool: Pool) -> None:
        self._pools.pop(host, None)
        if len(self._pools) >= MOST_POOLS:
            del self._pools[next(iter(self._pools))]  # Calls that are under way keep theirs until they end.
        self._pools[host] = pool

    async def aclose(self) -> None:
        """Close every connection."""
        for pool in self._pools.values():
            await pool.transport.aclose()
        await super().aclose()


class Checked:
    """A provider whose calls are made by the litellm child: the URL they go to is looked at before.

    The child looks at the address of every connection as well (`llmops.providers.confinement`); here is refused what
    could go over a connection that a trusted endpoint left open, and what a proxy would connect to.

    Args:
        who: The served entity, for messages.
        fresh_s: How long a look is good for.
    """

    def __init__(self, inner: Provider, egress: Egress, url: str, who: str, fresh_s: float = FRESH_S) -> None:
        self._inner = inner
        self._egress = egress
        self._url = url
        self._who = who
        self._fresh_s = fresh_s
        self._until = 0.0
        scheme, host = urlsplit(url).scheme, urlsplit(url).hostname or ""
        self._proxied = bool({scheme, "all"} & getproxies().keys()) and not proxy_bypass(host)

    async def answer(self, call: Call) -> Answer:
        """Ask for a whole answer; see `Provider`."""
        await self._check()
        return await self._inner.answer(call)

    async def stream(self, call: Call) -> AnswerStream:
        """Ask for a streamed answer; see `Provider`."""
        await self._check()
        return await self._inner.stream(call)

    async def _check(self) -> None:
        now = time.monotonic()
        if now < self._until:
            return
        if self._proxied:
            raise EndpointNotReady(
                f"{self._who}: its address came over REST, and the proxy of the environment would connect to it unseen;"
                f" name the host in {SETTING} of the server"
            )
        try:
            await self._egress.check(self._url)
        except EndpointNotReady as err:
            raise EndpointNotReady(f"{self._who}: {err.message}") from None
        self._until = now + self._fresh_s


def _host(url: str, who: str) -> str:
    try:
        return host_of(url)
    except ValueError as err:
        raise EndpointNotReady(f"{who}: the URL {err}") from None
