"""From a newest config that waits for its engines to one that serves, or to the reason why it does not."""

from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from llmops.endpoints.detail import CREATING, FAILED, EntityState
from llmops.endpoints.spec import EndpointSpec
from llmops.endpoints.store import Child, Store, StoredEndpoint
from llmops.providers.children import engine_key, engine_state


def settle(store: Store, model_dir: Path) -> None:
    """Serve each newest config whose engines are all ready, and write down the reason where one failed.

    One that failed is served all the same once its engines get ready: weights may be pulled later.
    """
    waiting = store.serving()
    if not waiting:
        return
    children = store.children()
    for endpoint in store.all():
        if endpoint.id not in waiting:
            continue
        states = _states(endpoint, children, model_dir)
        failures = [state.message for state in states if state.deployment == FAILED]
        if failures and waiting[endpoint.id].failed is None:
            store.fail(endpoint, failures[0])
        elif not failures and all(state.deployment != CREATING for state in states):
            store.settle(endpoint)


def _states(endpoint: StoredEndpoint, children: Mapping[str, Child], model_dir: Path) -> list[EntityState]:
    """Of the entities with an engine; none where the document cannot be served, which no waiting would mend."""
    try:
        spec = EndpointSpec.model_validate(endpoint.document, extra="ignore")
    except ValidationError:
        return []
    engines = [entity for entity in spec.config.served_entities if entity.has_engine]
    return [engine_state(endpoint.name, one, children.get(engine_key(one)), model_dir) for one in engines]
