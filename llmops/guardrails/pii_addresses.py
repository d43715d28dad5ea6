"""Addresses in text: of mailboxes and of machines.

Each search begins at what every such address has and other text has not (an ``@``, two colons, two dots), and looks
from there to both sides, no further than the longest address.
"""

import ipaddress
import re
from collections.abc import Iterator
from itertools import chain

Place = tuple[int, int]

_LONGEST_LOCAL, _LONGEST_DOMAIN, _LONGEST_IPV6 = 64, 255, 45

#: The second is an @ inside a URL. Two patterns: for a plain text `re` has a fast way that an either-or does not have.
_AT = (re.compile("@"), re.compile("%40"))
_LOCAL = re.compile(r"[\w.!#$%&*+^~'-]+")
_DOMAIN = re.compile(r"[\w-]++(?:\.[\w-]++)+")
#: No version of a package: ``lodash@4.17.21``.
_TOP_LEVEL = re.compile(r"[^\W\d_]{2}")

_OCTET = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_DOTS = re.compile(r"\.[0-9]{1,3}\.[0-9]{1,3}\.(?=[0-9])")
#: Not a part of a word or of a longer number, and no version: ``Chrome/120.0.0.1``, ``version 1.2.3.4``.
_IPV4 = re.compile(
    rf"(?<![\w.])(?<![A-Za-z]/)(?<!version )(?<!release ){_OCTET}(?:\.{_OCTET}){{3}}(?!\w|\.\d)",
    re.ASCII | re.IGNORECASE,
)
#: ``10.1.0.0/16`` names a network; ``10.1.2.3/16`` and ``10.1.2.3/32`` name a machine.
_PREFIX = re.compile(r"/([1-9]|[12]\d|3[01])(?![\w/.])", re.ASCII)
#: This machine and every machine: they name no one.
_NOBODY = re.compile(r"127\.|0\.0\.0\.0|255\.255\.255\.255")

_COLONS = re.compile(r":[0-9A-Fa-f]{0,4}:")
_IPV6 = re.compile(r"[0-9A-Fa-f:.]+")
_WORD = re.compile(r"\w")


def mailboxes(text: str) -> Iterator[Place]:
    """Find e-mail addresses."""
    for at in chain.from_iterable(pattern.finditer(text) for pattern in _AT):
        # Backwards, because only the end of the local part is known.
        before = _LOCAL.match(text[max(0, at.start() - _LONGEST_LOCAL) : at.start()][::-1])
        after = _DOMAIN.match(text, at.end(), at.end() + _LONGEST_DOMAIN)
        local = before[0][::-1].lstrip(".!#$%&*+^~'-") if before else ""
        domain = _domain(after[0]) if after else ""
        if local and domain:
            yield at.start() - len(local), at.end() + len(domain)


def machines(text: str) -> Iterator[Place]:
    """Find IPv4 and IPv6 addresses, but for those of this machine and of every machine."""
    for dots in _DOTS.finditer(text):
        # Three digits before the first dot, two, or one: the boundary in the pattern lets at most one of them through.
        for start in range(max(0, dots.start() - 3), dots.start()):
            found = _IPV4.match(text, start)
            if found and not _NOBODY.match(found[0]) and not _network(text, found):
                yield found.span()
    end = 0
    for colons in _COLONS.finditer(text):
        if colons.start() < end:
            continue  # All colons of a run lead to the same address, or to none.
        place, end = _ipv6(text, colons.start())
        if place is not None:
            yield place


def _network(text: str, address: re.Match[str]) -> bool:
    """Whether an address and what follows it name a whole network."""
    prefix = _PREFIX.match(text, address.end())
    if prefix is None:
        return False
    return int(ipaddress.IPv4Address(address[0])) % (1 << (32 - int(prefix[1]))) == 0


def _domain(run: str) -> str:
    """The domain a run of names and dots begins with; empty where it is none."""
    names = run.split(".")
    while len(names) > 1 and not _TOP_LEVEL.match(names[-1]):
        names.pop()
    return ".".join(names) if len(names) > 1 else ""


def _ipv6(text: str, colon: int) -> tuple[Place | None, int]:
    """The address around a colon, None where there is none; and the end of what was looked at."""
    before = _IPV6.match(text[max(0, colon - _LONGEST_IPV6) : colon][::-1])
    after = _IPV6.match(text, colon, colon + _LONGEST_IPV6)
    start, end = colon - (len(before[0]) if before else 0), after.end() if after else colon + 1
    place = _trimmed(text, start, end)
    return (place if place and _names_a_machine(text[slice(*place)]) else None), end


def _trimmed(text: str, start: int, end: int) -> Place | None:
    """A run of colons and digits without the punctuation around it; None inside a word."""
    if text[start] == ":" and text[start + 1] != ":":
        start += 1  # ``address:fe80::1``
    elif start and _WORD.match(text, start - 1):
        return None
    while end > start and (text[end - 1] == "." or (text[end - 1] == ":" and text[end - 2] != ":")):
        end -= 1
    return None if _WORD.match(text, end) else (start, end)


def _names_a_machine(written: str) -> bool:
    # ``x[::2]`` and ``a::b`` are program text: an address has a group of four digits, or four groups.
    groups = [group for group in written.split(":") if group]
    if len(groups) < 4 and not any(len(group) == 4 for group in groups):
        return False
    try:
        ipaddress.IPv6Address(written)
    except ValueError:
        return False
    return True
