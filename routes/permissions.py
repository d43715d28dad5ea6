"""The doors of endpoint permissions, as databricks-sdk asks for them: by the endpoint's id, not its name.

Source: ../shared/reference/databricks_contract.md 8.2
"""

import asyncio
import re
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends

from llmops.endpoints.access import Access
from llmops.endpoints.access_tokens import ADMINS, check_name
from llmops.endpoints.permissions import Acl, Level, Principal, direct
from llmops.endpoints.store import StoredEndpoint
from llmops.errors import InvalidParameter
from routes.serving_endpoints import Endpoints, endpoints
from routes.tokens import access

router = APIRouter(prefix="/api/2.0/permissions/serving-endpoints", tags=["Permissions"])
Object = Annotated[dict[str, Any], Body()]
Of = Annotated[Endpoints, Depends(endpoints)]
Rights = Annotated[Access, Depends(access)]

_LEVELS = {
    Level.CAN_MANAGE: "Can change, delete and query the endpoint, and say who else may do what with it",
    Level.CAN_QUERY: "Can query the endpoint, and see it",
    Level.CAN_VIEW: "Can see the endpoint in lists, its config and its state",
}
_KINDS = {"user_name": "user", "group_name": "group", "service_principal_name": "service_principal"}
_FIELDS = {kind: field for field, kind in _KINDS.items()}


@router.get("/{endpoint_id}", summary="Get the permissions of an endpoint")
async def get_permissions(of: Of, rights: Rights, endpoint_id: str) -> dict[str, Any]:
    """Who may do what with an endpoint; what nobody set here says that it is inherited."""
    await rights.look()
    return _told(_endpoint(of, endpoint_id, Level.CAN_VIEW), rights)


@router.put("/{endpoint_id}", summary="Set the permissions of an endpoint")
async def set_permissions(of: Of, rights: Rights, endpoint_id: str, body: Object) -> dict[str, Any]:
    """Replace who may do what. The creator keeps CAN_MANAGE; an empty list leaves it to creator and admins."""
    endpoint = _endpoint(of, endpoint_id, Level.CAN_MANAGE)
    await asyncio.to_thread(rights.permissions.put, endpoint, _acl(body))
    await rights.look()
    return _told(endpoint, rights)


@router.patch("/{endpoint_id}", summary="Change permissions of an endpoint")
async def update_permissions(of: Of, rights: Rights, endpoint_id: str, body: Object) -> dict[str, Any]:
    """Set what some principals may do; the others keep what they have."""
    endpoint = _endpoint(of, endpoint_id, Level.CAN_MANAGE)
    await asyncio.to_thread(rights.permissions.merge, endpoint, _acl(body))
    await rights.look()
    return _told(endpoint, rights)


@router.get("/{endpoint_id}/permissionLevels", summary="List the permission levels")
async def permission_levels(of: Of, endpoint_id: str) -> dict[str, Any]:
    """What there is to grant, and what it means."""
    _endpoint(of, endpoint_id, Level.CAN_VIEW)
    levels = [{"permission_level": level.name, "description": meaning} for level, meaning in _LEVELS.items()]
    return {"permission_levels": levels}


def _endpoint(of: Endpoints, endpoint_id: str, needed: Level) -> StoredEndpoint:
    if not re.fullmatch("[0-9a-f]{32}", endpoint_id):
        raise InvalidParameter(f"'{endpoint_id[:64]}' is not a valid Inference Endpoint ID.")
    return of.with_id(endpoint_id, needed)


def _acl(body: dict[str, Any]) -> Acl:
    entries = body.get("access_control_list") or []
    if not isinstance(entries, list):
        raise InvalidParameter("'access_control_list' must be a list")
    acl: dict[Principal, Level] = {}
    for number, entry in enumerate(entries):
        where = f"access_control_list[{number}]"
        if not isinstance(entry, dict):
            raise InvalidParameter(f"{where} must be an object")
        given = [(kind, entry[field]) for field, kind in _KINDS.items() if entry.get(field) is not None]
        if len(given) != 1 or not isinstance(given[0][1], str):
            raise InvalidParameter(f"{where} needs exactly one of {', '.join(_KINDS)}")
        principal, level = Principal(*given[0]), _level(entry.get("permission_level"), where)
        check_name(principal.name, f"{where}: {_FIELDS[principal.kind]}")
        if principal == ("group", ADMINS) and level is not Level.CAN_MANAGE:
            raise InvalidParameter(f"Cannot change permissions for group 'admins' to {level.name}.")
        if principal != ("group", ADMINS):
            acl[principal] = level
    return acl


def _level(given: Any, where: str) -> Level:
    names = [level.name for level in reversed(_LEVELS)]
    if not isinstance(given, str) or given not in names:
        raise InvalidParameter(f"{where}: permission_level must be {', '.join(names[:-1])} or {names[-1]}")
    return Level[given]


def _told(endpoint: StoredEndpoint, rights: Access) -> dict[str, Any]:
    found = rights.acl(endpoint)
    granted = dict(direct(endpoint, found))
    if endpoint.creator is not None:
        granted[Principal("user", endpoint.creator)] = Level.CAN_MANAGE
    inherited = found is None and endpoint.source is not None
    entries = [_entry(principal, level, inherited=inherited) for principal, level in granted.items()]
    return {
        "object_id": f"/serving-endpoints/{endpoint.id}",
        "object_type": "serving-endpoint",
        "access_control_list": [*entries, _entry(Principal("group", ADMINS), Level.CAN_MANAGE, inherited=True)],
    }


def _entry(principal: Principal, level: Level, *, inherited: bool) -> dict[str, Any]:
    permission: dict[str, Any] = {"permission_level": level.name, "inherited": inherited}
    if inherited:
        permission["inherited_from_object"] = ["/serving-endpoints/"]
    named = {_FIELDS[principal.kind]: principal.name}
    if principal.kind != "group":
        named["display_name"] = principal.name
    return {**named, "all_permissions": [permission]}
