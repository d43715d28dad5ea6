"""Where a config that came over REST may lead: not into the operator's own networks.

What the operator's own files name is trusted and never asked about here. For the rest an address counts, never a name:
whoever owns a name can let it lead elsewhere a moment later, so calls go to an address that was looked at
(`llmops.providers.guarded`). A URL must be written so plainly that no two programs can read two hosts in it.
"""

import asyncio
import ipaddress
import re
import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Self

from llmops.errors import EndpointNotReady

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Resolve = Callable[[str], Awaitable[Iterable[str]]]

SETTING = "LLMOPS_ALLOWED_NETWORKS"
LOOPBACK = ("127.0.0.0/8", "::1/128")
RESOLVE_TIMEOUT_S = 5.0
#: Who creates an endpoint does not wait longer for a name; it is asked for again with every connection.
CHECK_TIMEOUT_S = 1.0

#: A URL of one reading. Programs differ about backslashes, userinfo, zones, dots at the end, and digits that are not
#: ASCII; none of them gets through.
_URL = re.compile(
    r"https?://(?P<host>\[[0-9a-f:.]+\]|[a-z0-9_](?:[a-z0-9._-]*[a-z0-9_])?)(?::[0-9]{1,5})?(?:[/?#]\S*)?",
    re.ASCII | re.IGNORECASE,
)
#: With such a last label a host is an IPv4 address to a URL parser, whatever stands before: 2130706433, 0x7f.1.
_NUMBER = re.compile(r"(?:.*\.)?(?:0x[0-9a-f]*|[0-9]+)", re.ASCII)

#: Services that give credentials to whoever asks; some at addresses that look public.
_METADATA = frozenset(
    ipaddress.ip_address(address)
    for address in (
        *("169.254.169.254", "169.254.170.2", "169.254.170.23", "168.63.129.16", "192.0.0.192", "100.100.100.200"),
        *("fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254"),
    )
)
_METADATA_NAMES = frozenset(
    {"metadata", "metadata.google.internal", "metadata.goog", "metadata.azure.internal", "instance-data"}
    | {"instance-data.ec2.internal"}
)
_RANGES: Mapping[Network, str] = {
    ipaddress.ip_network(network): kind
    for network, kind in (
        ("0.0.0.0/8", "unspecified"),
        ("::/128", "unspecified"),
        ("127.0.0.0/8", "loopback"),
        ("::1/128", "loopback"),
        ("169.254.0.0/16", "link-local"),
        ("fe80::/10", "link-local"),
        ("100.64.0.0/10", "shared (carrier-grade NAT)"),
        ("fc00::/7", "unique-local"),
        ("fec0::/10", "site-local"),
        ("224.0.0.0/4", "multicast"),
        ("ff00::/8", "multicast"),
    )
}
#: IPv6 networks whose addresses hold an IPv4 address, which is where their packets end, and its first bit.
_HOLDERS: Mapping[ipaddress.IPv6Network, int] = {
    ipaddress.IPv6Network("::/96"): 96,
    ipaddress.IPv6Network("::ffff:0:0/96"): 96,
    ipaddress.IPv6Network("::ffff:0:0:0/96"): 96,
    ipaddress.IPv6Network("64:ff9b::/96"): 96,
    ipaddress.IPv6Network("2002::/16"): 16,
}


def host_of(url: str) -> str:
    """The host of a URL, in small letters, an IPv6 address without brackets.

    Raises:
        ValueError: It is not written plainly; the message says what a plain one is.
    """
    found = _URL.fullmatch(url)
    if found is None:
        raise ValueError(
            "is not written plainly: http:// or https://, then a host of ASCII letters, digits, dots and dashes,"
            " without a user, a zone, or a dot at its end"
        )
    host = found["host"].lower()
    if host.startswith("["):
        return str(ipaddress.ip_address(host[1:-1]))
    if _NUMBER.fullmatch(host):
        try:
            ipaddress.IPv4Address(host)
        except ValueError:
            raise ValueError("names an address in an unusual way; write it as four decimal numbers") from None
    return host


def kind(address: Address) -> str | None:
    """What an address is that is not public: loopback, private, a metadata service's, …; None for a public one."""
    held = _held(address)
    if held is not None and (inner := kind(held)) is not None:
        return inner
    if address in _METADATA:
        return "metadata service"
    for network, name in _RANGES.items():
        if address in network:
            return name
    if held is not None:
        return None
    return None if address.is_global and not address.is_reserved else "private"


def _held(address: Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address inside an IPv6 one; None where there is none."""
    if isinstance(address, ipaddress.IPv4Address) or address in (ipaddress.IPv6Address(0), ipaddress.IPv6Address(1)):
        return None
    for network, first_bit in _HOLDERS.items():
        if address in network:
            return ipaddress.IPv4Address(int(address) >> (96 - first_bit) & 0xFFFFFFFF)
    return None


async def resolve(host: str) -> Iterable[str]:
    """The addresses of a name, as this machine knows them.

    Raises:
        OSError: There are none, or nobody answered in time.
    """
    try:
        async with asyncio.timeout(RESOLVE_TIMEOUT_S):
            found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except UnicodeError:
        raise OSError("it is not a name that can have an address") from None
    return dict.fromkeys(str(entry[4][0]) for entry in found)


@dataclass(frozen=True, slots=True)
class Egress:
    """The rule of one server.

    Attributes:
        networks: Allowed although they are not public.
        names: Hosts that are trusted wherever they lead, in small letters.
        resolve: Gives the addresses of a name; raises OSError.
    """

    networks: tuple[Network, ...] = ()
    names: frozenset[str] = frozenset()
    resolve: Resolve = field(default=resolve, repr=False)

    @classmethod
    def read(cls, allowed: Iterable[str], *, loopback: bool = False) -> Self:
        """Make the rule.

        Args:
            allowed: Networks (``10.1.0.0/16``, ``10.1.2.3``) and names of hosts.
            loopback: Whether the server itself listens on loopback only: it may then use what listens there too.
        """
        networks, names = [], set()
        for item in (*allowed, *(LOOPBACK if loopback else ())):
            try:
                networks.append(ipaddress.ip_network(item, strict=False))
            except ValueError:
                names.add(item.lower().rstrip("."))
        return cls(tuple(networks), frozenset(names))

    def trusts(self, url: str) -> bool:
        """Whether the setting names the host of a URL: it may then lead anywhere."""
        try:
            return host_of(url) in self.names
        except ValueError:
            return False

    def refuses(self, address: str) -> str | None:
        """What an address is that may not be connected to; None where it may."""
        found = ipaddress.ip_address(address)
        named = kind(found)
        held = _held(found)
        if named is None or any(one in network for one in (found, held) if one for network in self.networks):
            return None
        return named

    async def addresses(self, url: str) -> tuple[str, ...]:
        """The addresses a URL may be connected to.

        Returns:
            At least one; those of its host that are refused are left out.

        Raises:
            EndpointNotReady: It is not written plainly, or leads only where nothing may go.
            OSError: Its host has no address.
        """
        try:
            host = host_of(url)
        except ValueError as err:
            raise EndpointNotReady(f"the URL {err}") from None
        if host in _METADATA_NAMES:
            raise EndpointNotReady(_refusal(host, {"metadata service"}))
        found = tuple(await self.resolve(host)) if _literal(host) is None else (host,)
        allowed = tuple(address for address in found if self.refuses(address) is None)
        if found and not allowed:
            raise EndpointNotReady(_refusal(host, {self.refuses(address) or "" for address in found}))
        if not found:
            raise OSError("its name has no address")
        return allowed

    async def check(self, url: str) -> None:
        """Refuse a URL that leads only where nothing may go; one whose host has no address now is let pass.

        Raises:
            EndpointNotReady: As `addresses`.
        """
        with suppress(OSError):  # A TimeoutError is one.
            async with asyncio.timeout(CHECK_TIMEOUT_S):
                await self.addresses(url)


def _refusal(host: str, kinds: Iterable[str]) -> str:
    # The class, not the address: a caller need not learn what names inside lead to.
    return (
        f"the address of '{host}' is {' or '.join(sorted(kinds))}; a config that came over REST may lead there only if"
        f" {SETTING} of the server names it (a network or a host)"
    )


def _literal(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
