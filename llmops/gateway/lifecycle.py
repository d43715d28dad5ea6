"""From a stored document to an endpoint that serves: prepare, which may fail, and swap, which cannot.

A worker's table follows the store: what another process changed is seen within a tenth of a second, and only the
endpoints that changed are prepared again.
"""

import logging
from dataclasses import replace

from llmops.endpoints.spec import EndpointSpec
from llmops.endpoints.store import Store, StoredEndpoint
from llmops.gateway.table import LiveEndpoint, Table
from llmops.gateway.workshop import Workshop

logger = logging.getLogger(__name__)


class Lifecycle:
    """Keeps the routing table of a worker equal to the store."""

    def __init__(self, store: Store, workshop: Workshop) -> None:
        self._store = store
        self._workshop = workshop
        self._table = Table({})

    def table(self) -> Table:
        """The routing table of this moment."""
        return self._table

    def follow(self) -> None:
        """Refresh if another process changed the store."""
        if self._store.changed():
            self.refresh()

    def prove(self, spec: EndpointSpec) -> None:
        """Build the served entities of a document and drop them: what can fail fails before it is kept."""
        for entity in spec.config.served_entities:
            self._workshop.build(spec.name, entity)

    def refresh(self) -> None:
        """Read the store, prepare what changed, and swap the table."""
        self._workshop.children.update(self._store.children())
        before = self._table.endpoints
        endpoints = {}
        for stored in self._store.all():
            old = before.get(stored.name)
            same = old is not None and (old.stored.id, old.stored.revision) == (stored.id, stored.revision)
            endpoints[stored.name] = old if old is not None and same else prepare(stored, self._workshop)
        self._table = Table(endpoints)


def prepare(stored: StoredEndpoint, workshop: Workshop) -> LiveEndpoint:
    """Build an endpoint that can be called; one whose document is wrong is built too, and says so when called."""
    if stored.problem is not None:
        return LiveEndpoint(stored)
    try:
        spec = EndpointSpec.model_validate(stored.document, extra="ignore")
        entities = tuple(workshop.build(stored.name, entity) for entity in spec.config.served_entities)
    except Exception as err:
        # The outer wall of an endpoint: a document of another release, or a bug, stops this one and no other.
        logger.exception("event=endpoint_unreadable endpoint=%s", stored.name)
        problem = f"its document cannot be served by this release ({type(err).__name__}); create it anew"
        return LiveEndpoint(replace(stored, problem=problem))
    return LiveEndpoint(
        stored,
        task=spec.task,
        entities=entities,
        percentages=tuple(spec.config.percentages),
        fallback=spec.ai_gateway is not None and spec.ai_gateway.fallback,
    )
