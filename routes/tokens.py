"""The doors of access tokens, in the shape of Databricks' token API. For the admin.

Databricks makes a token for who asks; ours may name another user, groups and `admin` besides.

Source: https://docs.databricks.com/api/workspace/tokens; databricks-sdk, databricks/sdk/service/settings.py (TokensAPI)
"""

import asyncio
import logging
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Request

from llmops.endpoints.access import Access
from llmops.endpoints.access_tokens import Token
from llmops.endpoints.caller import ADMIN, Caller
from llmops.errors import InvalidParameter
from routes.auth import By, require_admin

logger = logging.getLogger(__name__)

router = APIRouter(prefix="/api/2.0/token", tags=["Tokens"], dependencies=[Depends(require_admin)])
Object = Annotated[dict[str, Any], Body()]


def access(request: Request) -> Access:
    """The tokens and permissions of this worker."""
    found: Access = request.app.state.access
    return found


Of = Annotated[Access, Depends(access)]


@router.post("/create", summary="Create a token")
async def create_token(request: Request, of: Of, by: By, body: Object) -> dict[str, Any]:
    """Make a token, whose value only this answer tells. Without `user` it is one more of the caller's own.

    With the first token, the server asks everybody for one; that first one must be an admin's.
    """
    maker = by or Caller(ADMIN, admin=True)
    value, token = await asyncio.to_thread(
        of.tokens.create,
        _owner(body, maker),
        maker.user,
        lifetime_s=_whole(body, "lifetime_seconds"),
        comment=_text(body, "comment") or "",
        locked=_locked(request),
    )
    await of.look()
    logger.info("event=token_created token_id=%s user=%r admin=%s by=%r", token.id, token.caller.user, *_by(token))
    return {"token_value": value, "token_info": _told(token)}


@router.get("/list", summary="List tokens")
async def list_tokens(of: Of) -> dict[str, Any]:
    """Every token that was not revoked, the oldest first; never a value."""
    return {"token_infos": [_told(token) for token in await asyncio.to_thread(of.tokens.all)]}


@router.post("/delete", summary="Revoke a token")
async def delete_token(request: Request, of: Of, by: By, body: Object) -> dict[str, Any]:
    """Revoke a token: every worker and server refuses it within two seconds."""
    token_id = _text(body, "token_id")
    if not token_id:
        raise InvalidParameter("'token_id' must be a text that is not empty")
    token = await asyncio.to_thread(of.tokens.revoke, token_id, locked=_locked(request))
    await of.look()
    logger.info("event=token_revoked token_id=%s user=%r by=%r", token.id, token.caller.user, by and by.user)
    return {}


def _owner(body: dict[str, Any], maker: Caller) -> Caller:
    user, groups, admin = _text(body, "user"), body.get("groups") or [], body.get("admin")
    if not isinstance(groups, list) or not all(isinstance(group, str) for group in groups):
        raise InvalidParameter("'groups' must be a list of names")
    if admin is not None and not isinstance(admin, bool):
        raise InvalidParameter("'admin' must be true or false")
    if user is None:
        return Caller(maker.user, frozenset(groups) or maker.groups, maker.admin if admin is None else admin)
    return Caller(user, frozenset(groups), bool(admin))


def _told(token: Token) -> dict[str, Any]:
    return {
        "token_id": token.id,
        "comment": token.comment,
        "creation_time": token.created_ms,
        "expiry_time": -1 if token.expires_ms is None else token.expires_ms,
        "user": token.caller.user,
        "groups": sorted(token.caller.groups),
        "admin": token.caller.admin,
        "created_by": token.created_by,
    }


def _by(token: Token) -> tuple[bool, str]:
    return token.caller.admin, token.created_by


def _locked(request: Request) -> bool:
    """Whether the admin can always come in."""
    return bool(request.app.state.locked)


def _text(body: dict[str, Any], field: str) -> str | None:
    value = body.get(field)
    if value is not None and not isinstance(value, str):
        raise InvalidParameter(f"'{field}' must be a text")
    return value


def _whole(body: dict[str, Any], field: str) -> int | None:
    value = body.get(field)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
        raise InvalidParameter(f"'{field}' must be a whole number")
    return value
