"""Who may view, query and manage an endpoint.

Deny first: of an endpoint created over REST, its creator may do everything and nobody else anything, until permissions
are set. An endpoint of the operator's own files has no creator; everybody with a token may query it, because that is
what a file is written for, until permissions are set. An admin needs none.

Source: ../shared/reference/databricks_contract.md 8.2; https://docs.databricks.com/en/security/auth-authz/
access-control/serving-endpoint-acl.html
"""

from collections.abc import Mapping
from enum import IntEnum
from typing import Any, NamedTuple

import orjson

from llmops.endpoints.caller import Caller
from llmops.endpoints.secret_database import Ask, SecretDatabase
from llmops.endpoints.secret_store import USERS
from llmops.endpoints.store import StoredEndpoint
from llmops.errors import InvalidParameter, PermissionDenied

#: More would be a list of people, for which there are groups.
MOST_ENTRIES = 1000


class Level(IntEnum):
    """What is allowed; each level includes those before it."""

    NONE = 0
    CAN_VIEW = 1
    CAN_QUERY = 2
    CAN_MANAGE = 3


class Principal(NamedTuple):
    """Who is allowed something.

    Attributes:
        kind: user, group or service_principal; the latter is a token's owner too.
    """

    kind: str
    name: str


Acl = Mapping[Principal, Level]

#: What holds for an endpoint of a file until permissions are set.
OF_FILES: Acl = {Principal("group", USERS): Level.CAN_QUERY}
_PUT = """INSERT INTO endpoint_acls VALUES (?, ?)
ON CONFLICT (endpoint_id) DO UPDATE SET entries = excluded.entries"""


class Permissions:
    """The ACLs of endpoints; every method may block, and raises Unavailable while a shared database is away."""

    def __init__(self, database: SecretDatabase) -> None:
        self._database = database

    def put(self, endpoint: StoredEndpoint, acl: Acl) -> None:
        """Set the whole ACL of an endpoint.

        Raises:
            InvalidParameter: It is too long.
        """
        with self._database.write() as ask:
            _keep(ask, endpoint, acl)

    def merge(self, endpoint: StoredEndpoint, acl: Acl) -> None:
        """Set what the ACL says of some principals; others keep what they have.

        Raises:
            InvalidParameter: It gets too long.
        """
        with self._database.write() as ask:
            rows = ask("SELECT entries FROM endpoint_acls WHERE endpoint_id = ?", (endpoint.id,))
            _keep(ask, endpoint, {**direct(endpoint, _read(rows[0][0]) if rows else None), **acl})

    def forget(self, endpoint_id: str) -> None:
        """Drop the ACL of an endpoint that is no more."""
        with self._database.write() as ask:
            ask("DELETE FROM endpoint_acls WHERE endpoint_id = ?", (endpoint_id,))

    def known(self) -> dict[str, Acl]:
        """Every ACL that was set, by the id of its endpoint, as the file has it."""
        rows = self._database.read("SELECT endpoint_id, entries FROM endpoint_acls")
        return {endpoint_id: _read(entries) for endpoint_id, entries in rows}


def direct(endpoint: StoredEndpoint, acl: Acl | None) -> Acl:
    """What holds for an endpoint besides its creator's and the admins' rights.

    Args:
        acl: What was set; None where nothing was.
    """
    if acl is not None:
        return acl
    return OF_FILES if endpoint.source is not None else {}


def level(caller: Caller | None, endpoint: StoredEndpoint, acl: Acl | None) -> Level:
    """What a caller may do with an endpoint.

    Args:
        caller: None where no token is asked for: everything is allowed then.
        acl: What was set for the endpoint; None where nothing was.
    """
    if caller is None or caller.admin or caller.user == endpoint.creator:
        return Level.CAN_MANAGE
    granted = Level.NONE
    for (kind, name), found in direct(endpoint, acl).items():
        mine = name == USERS or name in caller.groups if kind == "group" else name == caller.user
        if mine and found > granted:
            granted = found
    return granted


def refuse_new_ways(caller: Caller | None, old: Mapping[str, Any] | None, new: Mapping[str, Any]) -> None:
    """Refuse who is no admin a document that changes where traffic goes beyond this machine.

    Args:
        old: The document now; None for a new endpoint.
        new: The document as it would be kept.

    Raises:
        PermissionDenied: External models, or an engine's address, are or were in the config, and it or the fallback
            changes.
    """
    if caller is None or caller.admin or not (_leaves(new) or _leaves(old or {})):
        return
    if old is None or _ways(old) != _ways(new):
        raise PermissionDenied(
            f"endpoint '{new.get('name')}': only an admin may change where traffic goes: served entities with an"
            " external_model or an api_base, their traffic and their fallback"
        )


def _leaves(document: Mapping[str, Any]) -> bool:
    entities = (document.get("config") or {}).get("served_entities") or []
    return any(entity.get("external_model") or _address(entity.get("llmops") or {}) for entity in entities)


def _address(extras: Mapping[str, Any]) -> Any:
    return extras.get("api_base") or extras.get("vendor")


def _ways(document: Mapping[str, Any]) -> tuple[Any, Any]:
    return document.get("config"), (document.get("ai_gateway") or {}).get("fallback_config")


def _keep(ask: Ask, endpoint: StoredEndpoint, acl: Acl) -> None:
    if len(acl) > MOST_ENTRIES:
        raise InvalidParameter(f"an endpoint has permissions for at most {MOST_ENTRIES} principals; use groups")
    entries = [(kind, name, granted.name) for (kind, name), granted in acl.items()]
    ask(_PUT, (endpoint.id, orjson.dumps(entries).decode()))


def _read(entries: str) -> Acl:
    return {Principal(kind, name): Level[granted] for kind, name, granted in orjson.loads(entries)}
