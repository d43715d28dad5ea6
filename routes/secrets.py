"""The doors of the encrypted store of secrets, as Databricks' clients ask for them. For the admin.

A value goes in and does not come out again: ``get``, which Databricks answers inside its notebooks alone, is refused.

Source: ../shared/reference/databricks_contract.md 8.1
"""

import asyncio
import binascii
import logging
from base64 import b64decode
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Query, Request

from llmops.endpoints.caller import ADMIN
from llmops.endpoints.secret_store import USERS, SecretStore
from llmops.errors import BadRequest, InvalidParameter, PermissionDenied
from routes.auth import caller

logger = logging.getLogger(__name__)


async def refuse_others(request: Request) -> None:
    """Refuse everybody but the admin; where no token is asked for, that is everybody on this machine."""
    by = caller(request)
    if by is not None and not by.admin:
        raise PermissionDenied("only the admin may manage secrets")


router = APIRouter(prefix="/api/2.0/secrets", tags=["Secrets"], dependencies=[Depends(refuse_others)])
Object = Annotated[dict[str, Any], Body()]
Scope = Annotated[str, Query()]


def secret_store(request: Request) -> SecretStore:
    """The encrypted store of this worker."""
    found: SecretStore = request.app.state.secret_store
    return found


Of = Annotated[SecretStore, Depends(secret_store)]


@router.post("/scopes/create", summary="Create a secret scope")
async def create_scope(of: Of, body: Object, request: Request) -> dict[str, Any]:
    """Make an empty scope; who makes it may MANAGE it, or all users where ``initial_manage_principal`` says so."""
    if body.get("scope_backend_type") not in (None, "DATABRICKS") or body.get("backend_azure_keyvault") is not None:
        raise InvalidParameter("secrets are kept by this server: scope_backend_type must be DATABRICKS")
    if body.get("initial_manage_principal") not in (None, "", USERS):
        raise InvalidParameter(f"initial_manage_principal can only be '{USERS}'; leave it out to manage it yourself")
    manager = body.get("initial_manage_principal") or _caller(request)
    await asyncio.to_thread(of.create_scope, _text(body, "scope"), manager)
    return {}


@router.get("/scopes/list", summary="List secret scopes")
async def list_scopes(of: Of) -> dict[str, Any]:
    """The name of every scope."""
    names = await asyncio.to_thread(of.scopes)
    return {"scopes": [{"name": name, "backend_type": "DATABRICKS"} for name in names]}


@router.post("/scopes/delete", summary="Delete a secret scope")
async def delete_scope(of: Of, body: Object) -> dict[str, Any]:
    """Forget a scope with its secrets and ACLs."""
    await asyncio.to_thread(of.delete_scope, _text(body, "scope"))
    return {}


@router.post("/put", summary="Put a secret")
async def put_secret(of: Of, body: Object, request: Request) -> dict[str, Any]:
    """Keep a value, in the place of the one of that name if there is one. Calls use it at once."""
    scope, key = _text(body, "scope"), _text(body, "key")
    await asyncio.to_thread(of.put, scope, key, _value(body))
    logger.info("event=secret_put scope=%s key=%s by=%s", scope, key, _caller(request))
    return {}


@router.get("/list", summary="List the secrets of a scope")
async def list_secrets(of: Of, scope: Scope) -> dict[str, Any]:
    """Key and time of the last change of every secret of a scope; never a value."""
    found = await asyncio.to_thread(of.secrets, scope)
    return {"secrets": [{"key": key, "last_updated_timestamp": updated_ms} for key, updated_ms in found]}


@router.get("/get", summary="Get the value of a secret (refused)")
async def get_secret() -> dict[str, Any]:
    """Refused, for everybody: a value is read by the calls that need it, and told to nobody."""
    raise BadRequest(
        "this server tells no value of a secret: name it in an endpoint as {{secrets/<scope>/<key>}}, and calls read it"
    )


@router.post("/delete", summary="Delete a secret")
async def delete_secret(of: Of, body: Object) -> dict[str, Any]:
    """Forget a secret; endpoints that use it wait for a new one."""
    await asyncio.to_thread(of.delete, _text(body, "scope"), _text(body, "key"))
    return {}


@router.post("/acls/put", summary="Put an ACL of a scope")
async def put_acl(of: Of, body: Object) -> dict[str, Any]:
    """Let a user or group READ, WRITE or MANAGE a scope."""
    await asyncio.to_thread(of.put_acl, _text(body, "scope"), _text(body, "principal"), _text(body, "permission"))
    return {}


@router.get("/acls/get", summary="Get an ACL of a scope")
async def get_acl(of: Of, scope: Scope, principal: Scope) -> dict[str, Any]:
    """What one principal may do with a scope."""
    acl = await asyncio.to_thread(of.acl, scope, principal)
    return {"principal": acl.principal, "permission": acl.permission}


@router.get("/acls/list", summary="List the ACLs of a scope")
async def list_acls(of: Of, scope: Scope) -> dict[str, Any]:
    """Who may do what with a scope."""
    acls = await asyncio.to_thread(of.acls, scope)
    found = [{"principal": acl.principal, "permission": acl.permission} for acl in acls]
    # Databricks documents `acls`; databricks-sdk 0.156 reads `items`.
    return {"acls": found, "items": found}


@router.post("/acls/delete", summary="Delete an ACL of a scope")
async def delete_acl(of: Of, body: Object) -> dict[str, Any]:
    """Let a principal do nothing with a scope any more."""
    await asyncio.to_thread(of.delete_acl, _text(body, "scope"), _text(body, "principal"))
    return {}


@router.post("/rotate-master", summary="Rotate the master key")
async def rotate_master(of: Of, request: Request) -> dict[str, Any]:
    """Wrap every secret with a new master key, and forget the old one. Values do not change."""
    count = await asyncio.to_thread(of.rotate)
    logger.info("event=master_key_rotated secrets=%d by=%s", count, _caller(request))
    return {"secrets": count}


def _text(body: dict[str, Any], field: str) -> str:
    value = body.get(field)
    if not isinstance(value, str) or not value:
        raise InvalidParameter(f"'{field}' must be a text that is not empty")
    return value


def _value(body: dict[str, Any]) -> bytes:
    given = [field for field in ("string_value", "bytes_value") if body.get(field) is not None]
    if len(given) != 1:
        error = BadRequest("a secret has exactly one of 'string_value' and 'bytes_value' (base64)")
        error.error_code = "MALFORMED_REQUEST"
        raise error
    value = body[given[0]]
    if not isinstance(value, str):
        raise InvalidParameter(f"'{given[0]}' must be a text")
    if given == ["string_value"]:
        return value.encode()
    try:
        return b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidParameter("'bytes_value' must be base64") from None


def _caller(request: Request) -> str:
    return request.scope.get("principal") or ADMIN
