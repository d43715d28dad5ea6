"""From a stored document to an endpoint that serves: prepare, which may fail, and swap, which cannot.

A worker's table follows the store: what another process changed is seen within a tenth of a second, and only the
endpoints that changed are prepared again.
"""

import logging
from dataclasses import replace

from llmops.endpoints.detail import served_entity_id
from llmops.endpoints.serving import Serving
from llmops.endpoints.spec import EndpointSpec
from llmops.endpoints.store import Store, StoredEndpoint
from llmops.gateway.quota import Quota
from llmops.gateway.table import Awaited, LiveEndpoint, LiveEntity, Table
from llmops.gateway.workshop import Workshop

logger = logging.getLogger(__name__)


class Lifecycle:
    """Keeps the routing table of a worker equal to the store."""

    def __init__(self, store: Store, workshop: Workshop) -> None:
        self._store = store
        self._workshop = workshop
        self._table = Table({})
        #: Each endpoint with what tells whether it must be prepared again.
        self._prepared: dict[str, tuple[tuple[str, int, Serving | None], LiveEndpoint]] = {}

    def table(self) -> Table:
        """The routing table of this moment."""
        return self._table

    def follow(self) -> None:
        """Refresh if another process changed the store."""
        if self._store.changed():
            self.refresh()

    async def prove(self, spec: EndpointSpec) -> None:
        """Build the served entities of a document from REST and drop them: what can fail fails before it is kept.

        Raises:
            InvalidParameter: It leads where nothing may go.
        """
        await self._workshop.check(spec.config.served_entities)
        for entity in spec.config.served_entities:
            self._workshop.build(spec.name, entity, trusted=False)

    def refresh(self) -> None:
        """Read the store, prepare what changed, and swap the table."""
        self._workshop.children.update(self._store.children())
        before, endpoints = self._prepared, {}
        serving = self._store.serving()
        for stored in self._store.all():
            kept = (stored.id, stored.revision, serving.get(stored.id))
            old = before.get(stored.name)
            same = old is not None and old[0] == kept
            endpoints[stored.name] = (
                old if old is not None and same else (kept, prepare(stored, kept[2], self._workshop))
            )
        self._prepared = endpoints
        self._table = Table({name: live for name, (_, live) in endpoints.items()})


def prepare(stored: StoredEndpoint, serving: Serving | None, workshop: Workshop) -> LiveEndpoint:
    """Build an endpoint that can be called; one whose document is wrong is built too, and says so when called.

    Args:
        serving: What serves while the newest config is not ready; None where it is.
    """
    if stored.problem is not None:
        return LiveEndpoint(stored)
    try:
        newest = EndpointSpec.model_validate(stored.document, extra="ignore")
        if serving is None or not newest.has_engine:
            return _live(stored, newest, workshop)
        engines = frozenset(entity.name for entity in newest.config.served_entities if entity.has_engine)
        awaited = Awaited(stored, _entities(stored, newest, workshop), engines, serving)
        if serving.version == 0:
            return replace(_live(stored, newest, workshop), awaited=awaited)
        document = {**stored.document, "config": serving.config}
        old = EndpointSpec.model_validate(document, extra="ignore")
        served = replace(stored, document=document, config_version=serving.version)
        return replace(_live(served, old, workshop), awaited=awaited)
    except Exception as err:
        # The outer wall of an endpoint: a document of another release, or a bug, stops this one and no other.
        logger.exception("event=endpoint_unreadable endpoint=%s", stored.name)
        problem = f"its document cannot be served by this release ({type(err).__name__}); create it anew"
        return LiveEndpoint(replace(stored, problem=problem))


def _live(stored: StoredEndpoint, spec: EndpointSpec, workshop: Workshop) -> LiveEndpoint:
    return LiveEndpoint(
        stored,
        task=spec.task,
        entities=_entities(stored, spec, workshop),
        percentages=tuple(spec.config.percentages),
        fallback=spec.ai_gateway is not None and spec.ai_gateway.fallback,
        policy=spec.log_policy,
        quota=Quota.of(spec.name, spec.limits),
    )


def _entities(stored: StoredEndpoint, spec: EndpointSpec, workshop: Workshop) -> tuple[LiveEntity, ...]:
    trusted = stored.source is not None
    return tuple(
        replace(workshop.build(stored.name, entity, trusted=trusted), id=served_entity_id(stored.id, entity.name))
        for entity in spec.config.served_entities
    )
