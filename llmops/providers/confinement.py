"""In the litellm child: a call of an endpoint that came over REST connects only where the rule of egress lets it.

litellm connects with several libraries, and for an address of the document alone it resolves the name itself. Python
announces every connection of all of them with the address it really goes to, and lets who listens refuse it. That holds
for connections made by Python's own sockets: the child's loop must be asyncio's, not uvloop's.
"""

import sys
from collections.abc import Mapping
from contextvars import ContextVar

import httpx

from llmops.providers.egress import SETTING, Egress
from llmops.providers.litellm_bridge import NETWORKS

_RULE: ContextVar[Egress | None] = ContextVar("rule", default=None)


class Refused(PermissionError):
    """A connection that was not made."""


def install() -> None:
    """Watch every connection of this process from now on, and follow no redirect: one would carry the key along."""
    sys.addaudithook(_look)
    # httpx follows where this says so, and litellm tells it to follow (tests/providers/test_confinement.py).
    httpx.Response.has_redirect_location = property(lambda _: False)  # type: ignore[assignment, method-assign]


def confine(headers: Mapping[str, str]) -> None:
    """Hold this task, and those it starts, to the rule that came with a request; without one it may go anywhere."""
    given = headers.get(NETWORKS)
    _RULE.set(None if given is None else Egress.read(network for network in given.split(",") if network))


def _look(event: str, arguments: tuple[object, ...]) -> None:
    if event != "socket.connect" or (rule := _RULE.get()) is None:
        return
    address = arguments[1]
    host = address[0] if isinstance(address, tuple) and address else None
    try:
        kind = rule.refuses(str(host))
    except ValueError:
        kind = "not one of the internet"  # A name that the system would resolve unseen, or a socket file.
    if kind is not None:
        raise Refused(f"the address is {kind}; {SETTING} of the server does not name it")
