"""Who may come in: one extractor for every credential header, and the house rules of a loopback address.

With the admin's token set, or any token made, every request but health and discovery carries one. Without any the
server listens on loopback only, and refuses what a web page in the user's browser could send it: a foreign Host, a
foreign Origin, a form.
"""

import base64
import binascii
import hmac
from collections.abc import Mapping
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Depends, Request

from llmops.endpoints.access import NEEDED, Access
from llmops.endpoints.caller import ADMIN, Caller
from llmops.errors import BadRequest, PermissionDenied, Unauthenticated
from llmops.settings import LOOPBACK, Settings

#: Open to everybody: whether the house stands, and where a client finds its way.
OPEN_PATHS = frozenset({"/health", "/ready", "/.well-known/databricks-config"})
#: Who has the token of `LLMOPS_TOKEN`.
_OPERATOR = Caller(ADMIN, admin=True)


class Doorkeeper:
    """Checks the headers of every request."""

    def __init__(self, settings: Settings, access: Access) -> None:
        self._token = settings.token
        self._loopback = settings.loopback
        self._access = access

    async def admit(self, headers: Mapping[bytes, bytes]) -> Caller | None:
        """Let a request in, or not.

        Args:
            headers: By lower-case name.

        Returns:
            Who the caller is; None where no token is asked for.

        Raises:
            Unauthenticated: A token is asked for, and this is not it.
            PermissionDenied: A web page seems to have sent it.
            Unavailable: It cannot be known now whether the token is one.
        """
        if self._token is None and not self._access.on:
            if self._loopback:
                _refuse_foreign(headers)
            return None
        given = credential(headers)
        if not given:
            raise Unauthenticated(NEEDED)
        if self._token is not None and hmac.compare_digest(given.encode(), self._token.encode()):
            return _OPERATOR
        return await self._access.caller(given)


def caller(request: Request) -> Caller | None:
    """Who sent a request that the front let in; None where no token is asked for."""
    found: Caller | None = request.scope.get("caller")
    return found


By = Annotated[Caller | None, Depends(caller)]


async def require_admin(by: By) -> None:
    """Refuse everybody but an admin; where no token is asked for, that is everybody on this machine.

    Raises:
        PermissionDenied: The caller is no admin.
    """
    if by is not None and not by.admin:
        raise PermissionDenied(f"User '{by.user}' is not an admin; only an admin may do this")


def credential(headers: Mapping[bytes, bytes]) -> str | None:
    """The credential of a request: bearer, basic (its password), ``x-api-key`` or ``api-key``."""
    scheme, _, value = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
    if scheme.lower() == "bearer" and value:
        return value.strip()
    if scheme.lower() == "basic" and value:
        try:
            return base64.b64decode(value, validate=True).decode("utf-8").partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return None
    found = headers.get(b"x-api-key") or headers.get(b"api-key")
    return found.decode("latin-1") if found else None


def require_json(headers: Mapping[bytes, bytes]) -> None:
    """Check that a body says it is JSON: a form is the one body a foreign web page can send unasked.

    Raises:
        BadRequest: It does not.
    """
    kind = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
    if kind != b"application/json":
        shown = kind.decode("latin-1")[:60] or "none"
        raise BadRequest(
            f"content-type must be application/json, not {shown}; curl: -H 'content-type: application/json'"
        )


def _refuse_foreign(headers: Mapping[bytes, bytes]) -> None:
    if _hostname("//" + headers.get(b"host", b"").decode("latin-1")) not in LOOPBACK:
        raise PermissionDenied("the host in the request is not this machine; this server answers on loopback only")
    origin = headers.get(b"origin")
    if origin is not None and _hostname(origin.decode("latin-1")) not in LOOPBACK:
        raise PermissionDenied("a page of another origin may not use this server")


def _hostname(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None
