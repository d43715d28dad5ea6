"""The management doors: create, get, list, update and delete endpoints, as Databricks' clients ask for it.

Source: ../shared/reference/databricks_contract.md 1.1
"""

import asyncio
import random
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Body, Depends, Request, Response

from llmops.endpoints.access import Access
from llmops.endpoints.caller import Caller
from llmops.endpoints.config_update import merge
from llmops.endpoints.detail import detail, summary
from llmops.endpoints.files import read_document
from llmops.endpoints.permissions import Level, refuse_new_ways
from llmops.endpoints.plaintext_keys import PlaintextKeys
from llmops.endpoints.spec import EndpointSpec
from llmops.endpoints.store import Store, StoredEndpoint
from llmops.errors import Conflict, EndpointNotFound, InvalidParameter, NotFound, PermissionDenied, Stale
from llmops.gateway.lifecycle import Lifecycle
from routes.auth import By

router = APIRouter(prefix="/api/2.0/serving-endpoints", tags=["Serving endpoints"])
#: How often a change of tags is repeated because others changed the endpoint first, and after how long at most.
TAG_RETRIES, _RETRY_WITHIN_S = 50, 0.05
Object = Annotated[dict[str, Any], Body()]


class Endpoints:
    """What the routes do: change the store, and let this worker's table follow before the answer goes out.

    Every method raises PermissionDenied for who may not do that with the endpoint.

    Args:
        keys: Takes the keys in clear out of documents.
        caller: For whom; None where no token is asked for.
    """

    def __init__(
        self, store: Store, lifecycle: Lifecycle, access: Access, keys: PlaintextKeys, caller: Caller | None = None
    ) -> None:
        self._store = store
        self._lifecycle = lifecycle
        self._access = access
        self._keys = keys
        self._caller = caller

    def seen_by(self, caller: Caller | None) -> "Endpoints":
        """The same, for one caller."""
        return Endpoints(self._store, self._lifecycle, self._access, self._keys, caller)

    def list(self, needed: Level = Level.CAN_VIEW) -> list[dict[str, Any]]:
        """Every endpoint with which the caller may do what is needed, short."""
        self._lifecycle.follow()
        found = ((live, self._level(live.stored)) for live in self._lifecycle.table().endpoints.values())
        return [
            {**summary(live.stored, live.states(), live.pending()), "permission_level": level.name}
            for live, level in found
            if level >= needed
        ]

    def get(self, name: str) -> dict[str, Any]:
        """One endpoint, whole.

        Raises:
            NotFound: There is none of that name.
        """
        self._lifecycle.follow()
        live = self._lifecycle.table().endpoints.get(name)
        if live is None:
            raise NotFound(f"Endpoint with name '{name}' does not exist.")
        self._access.require(self._caller, live.stored, Level.CAN_VIEW)
        whole = detail(live.stored, live.states(), live.pending())
        return {**whole, "permission_level": self._level(live.stored).name}

    def refuse_query(self, name: str) -> None:
        """Check that the caller may query an endpoint, where there is one of that name.

        Raises:
            EndpointNotFound: There is none, and the caller is not one to be told a name that is near.
        """
        live = self._lifecycle.table().endpoints.get(name)
        if live is not None:
            self._access.require(self._caller, live.stored, Level.CAN_QUERY)
        elif self._caller is not None and not self._caller.admin:
            raise EndpointNotFound(f"endpoint '{name[:63]}' does not exist")

    def queried(self) -> Sequence[str] | None:
        """The names of the endpoints that the caller may query; None: of all, also of those that are gone.

        Raises:
            PermissionDenied: There is none.
        """
        if self._caller is None or self._caller.admin:
            return None
        live = self._lifecycle.table().endpoints.values()
        names = [one.stored.name for one in live if self._level(one.stored) >= Level.CAN_QUERY]
        if not names:
            raise PermissionDenied(f"User '{self._caller.user}' may query no endpoint; an admin can grant it")
        return names

    def with_id(self, endpoint_id: str, needed: Level) -> StoredEndpoint:
        """The endpoint of an id, with which the caller may do what is needed.

        Raises:
            NotFound: There is none of that id.
        """
        self._lifecycle.follow()
        for live in self._lifecycle.table().endpoints.values():
            if live.stored.id == endpoint_id:
                self._access.require(self._caller, live.stored, needed)
                return live.stored
        raise NotFound(f"Endpoint with id '{endpoint_id[:64]}' does not exist.")

    async def create(self, document: dict[str, Any], creator: str | None) -> dict[str, Any]:
        """Check and keep a new endpoint; it serves when this returns."""
        taken = self._keys.take(document)
        spec = read_document(taken.document)
        refuse_new_ways(self._caller, None, spec.document())
        await self._lifecycle.prove(spec)
        await asyncio.to_thread(self._keys.keep, taken, partial(self._store.create, spec, creator))
        return self._refreshed(spec.name)

    async def update(self, name: str, changes: dict[str, Any]) -> dict[str, Any]:
        """Replace parts of an endpoint's document; what is not named stays."""
        old = await self.stored(name, Level.CAN_MANAGE)
        return await self._keep(old, {**old.document, **changes})

    async def update_config(self, name: str, sent: Mapping[str, Any]) -> dict[str, Any]:
        """Change parts of an endpoint's config; what is not sent stays (`llmops.endpoints.config_update`)."""
        old = await self.stored(name, Level.CAN_MANAGE)
        config = merge(old.document.get("config") or {}, sent)
        return await self._keep(old, {**old.document, "config": config})

    async def update_tags(self, name: str, added: Sequence[dict[str, Any]], deleted: Sequence[str]) -> dict[str, Any]:
        """Add and delete an endpoint's tags, and nobody else's: what others add meanwhile is kept.

        Raises:
            Stale: Others were faster, again and again.
        """
        for _ in range(TAG_RETRIES):
            with suppress(Stale):
                return await self._retag(name, added, deleted)
            await asyncio.sleep(random.uniform(0, _RETRY_WITHIN_S))  # noqa: S311 - no secret
        return await self._retag(name, added, deleted)

    async def replace(self, name: str, document: dict[str, Any]) -> dict[str, Any]:
        """Replace an endpoint's whole document in one step; what is not sent is removed.

        Raises:
            InvalidParameter: The document names another endpoint.
        """
        if document.get("name", name) != name:
            raise InvalidParameter(f"the document's 'name' is not '{name}'; an endpoint keeps its name")
        old = await self.stored(name, Level.CAN_MANAGE)
        return await self._keep(old, {**document, "name": name})

    async def versions(self, name: str) -> Sequence[dict[str, Any]]:
        """Every config an endpoint has had, the newest first."""
        await self.stored(name)
        return [version.document() for version in await asyncio.to_thread(self._store.versions, name)]

    async def rollback(self, name: str, number: int) -> dict[str, Any]:
        """Make a former config the endpoint's newest.

        Raises:
            NotFound: There is no such version.
        """
        await self.stored(name, Level.CAN_MANAGE)
        known = {version.number: version for version in await asyncio.to_thread(self._store.versions, name)}
        if number not in known:
            raise NotFound(f"endpoint '{name}' has no version {number}; it has {min(known)} to {max(known)}")
        return await self.update(name, {"config": dict(known[number].config)})

    async def delete(self, name: str) -> None:
        """Forget an endpoint, and who might do what with it."""
        old = await self.stored(name, Level.CAN_MANAGE)
        configs = [version.config for version in await asyncio.to_thread(self._store.versions, name)]
        await asyncio.to_thread(self._store.delete, name)
        self._lifecycle.refresh()
        await asyncio.to_thread(self._keys.forget, name, configs)
        if self._access.acl(old) is not None:
            await asyncio.to_thread(self._access.permissions.forget, old.id)

    async def stored(self, name: str, needed: Level = Level.CAN_VIEW) -> StoredEndpoint:
        """An endpoint as the store keeps it, with which the caller may do what is needed."""
        found = await asyncio.to_thread(self._store.get, name)
        self._access.require(self._caller, found, needed)
        return found

    async def _keep(self, old: StoredEndpoint, document: dict[str, Any]) -> dict[str, Any]:
        """Check a document and put it in the place of the one that was read."""
        # To who is no admin every key is new: what is refused must not tell whether it is the one that is kept.
        admin = self._caller is None or self._caller.admin
        taken = self._keys.take(document, old.document if admin else None)
        spec = read_document(taken.document)
        refuse_new_ways(self._caller, old.document, spec.document())
        self._refuse_moved_table(spec)
        self._refuse_second_update(old, spec)
        await self._lifecycle.prove(spec)
        await asyncio.to_thread(self._keys.keep, taken, partial(self._store.update, old, spec))
        return self._refreshed(old.name)

    async def _retag(self, name: str, added: Sequence[dict[str, Any]], deleted: Sequence[str]) -> dict[str, Any]:
        old = await self.stored(name, Level.CAN_MANAGE)
        gone = {*deleted, *(tag["key"] for tag in added)}
        kept = [tag for tag in old.document.get("tags") or [] if tag["key"] not in gone]
        return await self._keep(old, {**old.document, "tags": [*kept, *added]})

    def _refuse_moved_table(self, spec: EndpointSpec) -> None:
        """Refuse an update that names another inference table while there is one: rows would be in two places."""
        self._lifecycle.follow()
        live = self._lifecycle.table().endpoints.get(spec.name)
        before, after = live.policy.payload_table if live else None, spec.log_policy.payload_table
        if before and after and before != after:
            raise InvalidParameter(
                f"endpoint '{spec.name}': the inference table is {before}; to change catalog_name, schema_name or"
                " table_name_prefix, disable it first, and enable it again with the new names"
            )

    def _refuse_second_update(self, old: StoredEndpoint, spec: EndpointSpec) -> None:
        """Refuse another config while the engine of the last one is starting; the rest may change meanwhile."""
        live = self._lifecycle.table().endpoints.get(old.name)
        if live is None or spec.document()["config"] == old.document.get("config"):
            return
        if live.updating:
            raise Conflict(
                f"endpoint '{old.name}' is being updated; wait until its state.config_update is no longer IN_PROGRESS,"
                " or delete it"
            )

    def _level(self, endpoint: StoredEndpoint) -> Level:
        return self._access.level(self._caller, endpoint)

    def _refreshed(self, name: str) -> dict[str, Any]:
        self._lifecycle.refresh()
        return self.get(name)


def endpoints(request: Request, by: By) -> Endpoints:
    """The endpoints of this worker, for the caller."""
    found: Endpoints = request.app.state.endpoints
    return found.seen_by(by)


Of = Annotated[Endpoints, Depends(endpoints)]


def _json(document: dict[str, Any]) -> Response:
    """An answer as it is. FastAPI would look at every value again, which takes longer than all the rest."""
    return Response(orjson.dumps(document), media_type="application/json")


@router.get("", summary="List endpoints")
@router.get("/", include_in_schema=False)
async def list_endpoints(of: Of) -> Response:
    """Every endpoint with its state; the key ``endpoints`` is there even when there are none."""
    return _json({"endpoints": of.list()})


@router.post("", summary="Create an endpoint")
@router.post("/", include_in_schema=False)
async def create_endpoint(of: Of, document: Object, request: Request) -> dict[str, Any]:
    """Create an endpoint from its document. It serves when the answer comes."""
    return await of.create(document, request.scope.get("principal"))


@router.get("/{name}", summary="Get an endpoint")
async def get_endpoint(of: Of, name: str) -> Response:
    """One endpoint: config, state, and what each served entity waits for."""
    return _json(of.get(name))


@router.put("/{name}", summary="Replace an endpoint")
async def replace_endpoint(of: Of, name: str, document: Object) -> dict[str, Any]:
    """Replace the whole document in one step: config, policies, tags, description. Our own: what `apply` calls."""
    return await of.replace(name, document)


@router.get("/{name}/versions", summary="List the versions of the config")
async def list_versions(of: Of, name: str) -> dict[str, Any]:
    """Every config the endpoint has had, the newest first. Our own."""
    return {"versions": await of.versions(name)}


@router.post("/{name}/rollback", summary="Go back to a version of the config")
async def rollback(of: Of, name: str, asked: Object) -> dict[str, Any]:
    """Make the config of a former `config_version` the newest one. Our own."""
    number = asked.get("config_version")
    if isinstance(number, bool) or not isinstance(number, int):
        raise InvalidParameter("'config_version' must be a whole number")
    return await of.rollback(name, number)


@router.put("/{name}/config", summary="Update the config")
async def update_config(of: Of, name: str, config: Object) -> dict[str, Any]:
    """Change served entities, their traffic, the table: what is not sent stays. Running requests keep their config."""
    return await of.update_config(name, config)


@router.put("/{name}/ai-gateway", summary="Replace the ai_gateway block")
async def update_ai_gateway(of: Of, name: str, block: Object) -> dict[str, Any]:
    """Replace the whole block; what is not sent is removed."""
    whole = await of.update(name, {"ai_gateway": block})
    return dict(whole.get("ai_gateway") or {})


@router.patch("/{name}/tags", summary="Change tags")
async def update_tags(of: Of, name: str, changes: Object) -> dict[str, Any]:
    """Add and delete tags; an added one replaces the one with its key."""
    added, deleted = changes.get("add_tags") or [], changes.get("delete_tags") or []
    if not isinstance(added, list) or not all(
        isinstance(tag, dict) and isinstance(tag.get("key"), str) for tag in added
    ):
        raise InvalidParameter("'add_tags' must be a list of objects with 'key' and 'value'")
    if not isinstance(deleted, list) or not all(isinstance(key, str) for key in deleted):
        raise InvalidParameter("'delete_tags' must be a list of keys")
    whole = await of.update_tags(name, added, deleted)
    return {"tags": whole.get("tags") or []}


@router.delete("/{name}", summary="Delete an endpoint")
async def delete_endpoint(of: Of, name: str) -> dict[str, Any]:
    """Forget an endpoint; requests that are running end as they began."""
    await of.delete(name)
    return {}
