"""The routing table: every endpoint as it is served now, immutable, replaced as a whole.

A request keeps the endpoint it started with; a swap cannot fail and waits for nobody.
"""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from llmops.endpoints.detail import CREATING, FAILED, EntityState, Pending
from llmops.endpoints.log_policy import METADATA, LogPolicy
from llmops.endpoints.serving import Serving
from llmops.endpoints.store import StoredEndpoint
from llmops.errors import EndpointNotFound
from llmops.gateway.quota import Quota
from llmops.protocol.task import Task
from llmops.providers.provider import Limits, Provider


@dataclass(frozen=True, slots=True)
class LiveEntity:
    """A served entity that can be called.

    Attributes:
        id: 32 hex digits, as the endpoint's document tells it; empty until the endpoint is kept.
        served: Its name, provider and model, as the record names them.
        state: Tells whether it can answer now; looks at secrets, weights and children afresh.
    """

    served: tuple[str, str, str]
    provider: Provider
    limits: Limits
    state: Callable[[], EntityState]
    id: str = ""


@dataclass(frozen=True, slots=True)
class Awaited:
    """The newest config of an endpoint, which is not ready yet.

    Attributes:
        endpoint: As the store keeps it, with this config.
        entities: Their states tell how far it is; nobody calls them.
        engines: Names of those that need an engine; no other is waited for.
        serving: What serves meanwhile.
    """

    endpoint: StoredEndpoint
    entities: tuple[LiveEntity, ...]
    engines: frozenset[str]
    serving: Serving

    def pending(self) -> Pending:
        """What a client is told of it."""
        states = {entity.served[0]: entity.state() for entity in self.entities}
        failures = (states[name].message for name in self.engines if states[name].deployment == FAILED)
        failed = self.serving.failed or next(failures, None)
        return Pending(self.endpoint, states, failed, first=self.serving.version == 0)


@dataclass(frozen=True, slots=True)
class LiveEndpoint:
    """An endpoint that can be called.

    Attributes:
        stored: With the config that serves, which may be older than the newest one.
        task: None where the document has a problem; then there are no entities either.
        percentages: Share of the traffic of each entity; they sum to 100.
        fallback: Whether the other entities are tried when one fails.
        policy: What is recorded of its interactions.
        quota: Its rate limits; None where it has none.
        awaited: The newest config, while it is not ready.
    """

    stored: StoredEndpoint
    task: Task | None = None
    entities: tuple[LiveEntity, ...] = ()
    percentages: tuple[int, ...] = ()
    fallback: bool = False
    policy: LogPolicy = METADATA
    quota: Quota | None = None
    awaited: Awaited | None = None

    @property
    def updating(self) -> bool:
        """Whether an engine of the newest config is still starting."""
        if self.awaited is None:
            return any(state.deployment == CREATING for state in self.states().values())
        return self.awaited.pending().config_update == "IN_PROGRESS"

    def pending(self) -> Pending | None:
        """What a client is told of the newest config while it is not ready."""
        return self.awaited.pending() if self.awaited is not None else None

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
