"""The management doors: create, get, list, update and delete endpoints, as Databricks' clients ask for it.

Source: ../shared/reference/databricks_contract.md 1.1
"""

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Request

from llmops.endpoints.detail import detail, summary
from llmops.endpoints.files import read_document
from llmops.endpoints.store import Store, StoredEndpoint
from llmops.errors import InvalidParameter, NotFound
from llmops.gateway.lifecycle import Lifecycle

router = APIRouter(prefix="/api/2.0/serving-endpoints", tags=["Serving endpoints"])
Object = Annotated[dict[str, Any], Body()]


class Endpoints:
    """What the routes do: change the store, and let this worker's table follow before the answer goes out."""

    def __init__(self, store: Store, lifecycle: Lifecycle) -> None:
        self._store = store
        self._lifecycle = lifecycle

    def list(self) -> list[dict[str, Any]]:
        """Every endpoint, short."""
        self._lifecycle.follow()
        return [summary(live.stored, live.states()) for live in self._lifecycle.table().endpoints.values()]

    def get(self, name: str) -> dict[str, Any]:
        """One endpoint, whole.

        Raises:
            NotFound: There is none of that name.
        """
        self._lifecycle.follow()
        live = self._lifecycle.table().endpoints.get(name)
        if live is None:
            raise NotFound(f"Endpoint with name '{name}' does not exist.")
        return detail(live.stored, live.states())

    async def create(self, document: dict[str, Any], creator: str | None) -> dict[str, Any]:
        """Check and keep a new endpoint; it serves when this returns."""
        spec = read_document(document)
        self._lifecycle.prove(spec)
        await asyncio.to_thread(self._store.create, spec, creator)
        return self._refreshed(spec.name)

    async def update(self, name: str, changes: dict[str, Any]) -> dict[str, Any]:
        """Replace parts of an endpoint's document; what is not named stays."""
        old = await asyncio.to_thread(self._store.get, name)
        spec = read_document({**old.document, **changes})
        self._lifecycle.prove(spec)
        await asyncio.to_thread(self._store.update, old, spec)
        return self._refreshed(name)

    async def delete(self, name: str) -> None:
        """Forget an endpoint."""
        await asyncio.to_thread(self._store.delete, name)
        self._lifecycle.refresh()

    async def stored(self, name: str) -> StoredEndpoint:
        """An endpoint as the store keeps it."""
        return await asyncio.to_thread(self._store.get, name)

    def _refreshed(self, name: str) -> dict[str, Any]:
        self._lifecycle.refresh()
        return self.get(name)


def endpoints(request: Request) -> Endpoints:
    """The endpoints of this worker."""
    found: Endpoints = request.app.state.endpoints
    return found


Of = Annotated[Endpoints, Depends(endpoints)]


@router.get("", summary="List endpoints")
@router.get("/", include_in_schema=False)
async def list_endpoints(of: Of) -> dict[str, Any]:
    """Every endpoint with its state; the key ``endpoints`` is there even when there are none."""
    return {"endpoints": of.list()}


@router.post("", summary="Create an endpoint")
@router.post("/", include_in_schema=False)
async def create_endpoint(of: Of, document: Object, request: Request) -> dict[str, Any]:
    """Create an endpoint from its document. It serves when the answer comes."""
    return await of.create(document, request.scope.get("principal"))


@router.get("/{name}", summary="Get an endpoint")
async def get_endpoint(of: Of, name: str) -> dict[str, Any]:
    """One endpoint: config, state, and what each served entity waits for."""
    return of.get(name)


@router.put("/{name}/config", summary="Update the config")
async def update_config(of: Of, name: str, config: Object) -> dict[str, Any]:
    """Replace the served entities and their traffic. Running requests keep the config they started with."""
    return await of.update(name, {"config": config})


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
    old = (await of.stored(name)).document.get("tags") or []
    gone = {*deleted, *(tag["key"] for tag in added)}
    whole = await of.update(name, {"tags": [*(tag for tag in old if tag["key"] not in gone), *added]})
    return {"tags": whole.get("tags") or []}


@router.delete("/{name}", summary="Delete an endpoint")
async def delete_endpoint(of: Of, name: str) -> dict[str, Any]:
    """Forget an endpoint; requests that are running end as they began."""
    await of.delete(name)
    return {}
