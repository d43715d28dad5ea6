"""The routing table: every endpoint as it is served now, immutable, replaced as a whole.

A request keeps the endpoint it started with; a swap cannot fail and waits for nobody.
"""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from llmops.endpoints.detail import EntityState
from llmops.endpoints.store import StoredEndpoint
from llmops.errors import EndpointNotFound
from llmops.protocol.task import Task
from llmops.providers.provider import Limits, Provider


@dataclass(frozen=True, slots=True)
class LiveEntity:
    """A served entity that can be called.

    Attributes:
        served: Its name, provider and model, as the record names them.
        state: Tells whether it can answer now; looks at secrets, weights and children afresh.
    """

    served: tuple[str, str, str]
    provider: Provider
    limits: Limits
    state: Callable[[], EntityState]


@dataclass(frozen=True, slots=True)
class LiveEndpoint:
    """An endpoint that can be called.

    Attributes:
        task: None where the document has a problem; then there are no entities either.
        percentages: Share of the traffic of each entity; they sum to 100.
        fallback: Whether the other entities are tried when one fails.
    """

    stored: StoredEndpoint
    task: Task | None = None
    entities: tuple[LiveEntity, ...] = ()
    percentages: tuple[int, ...] = ()
    fallback: bool = False

    def states(self) -> dict[str, EntityState]:
        """The state of each served entity, by name."""
        return {entity.served[0]: entity.state() for entity in self.entities}


@dataclass(frozen=True, slots=True)
class Table:
    """Every endpoint, by name."""

    endpoints: Mapping[str, LiveEndpoint]

    def find(self, name: str) -> LiveEndpoint:
        """The endpoint of a name.

        Raises:
            EndpointNotFound: There is none; the message names the nearest.
        """
        found = self.endpoints.get(name)
        if found is None:
            # Nothing is near a name that is longer than names can be, and looking takes time.
            near = difflib.get_close_matches(name, self.endpoints, n=1) if len(name) <= 63 else []
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise EndpointNotFound(f"endpoint '{name[:63]}' does not exist{hint}")
        return found
