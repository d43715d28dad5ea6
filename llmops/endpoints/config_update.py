"""A partial update of an endpoint's config, as stock clients send it: what is not sent stays.

Source: ../shared/reference/databricks_contract.md 1.1; databricks-sdk, `ServingEndpointsAPI.update_config`
"""

from collections.abc import Mapping
from typing import Any

from llmops.endpoints.served_entity import name_of
from llmops.endpoints.spec import renamed
from llmops.errors import InvalidParameter

#: Each may be sent alone.
PARTS = ("served_entities", "served_models", "traffic_config", "auto_capture_config")


def merge(config: Mapping[str, Any], sent: Mapping[str, Any]) -> dict[str, Any]:
    """The config that an update makes of one that is kept. It is not checked yet.

    The split of the traffic stays as long as it names exactly the served entities: a split between others would only
    stand in the way of one entity that gets everything.

    Args:
        config: As it is kept.
        sent: Any of `PARTS`; null removes one.

    Raises:
        InvalidParameter: None of them was sent.
    """
    if not any(part in sent for part in PARTS):
        raise InvalidParameter(f"the config has none of {', '.join(PARTS)}; send what should change")
    changes = renamed(sent)
    whole = {**config, **changes}
    if "traffic_config" not in changes and not _fits(config.get("traffic_config"), whole.get("served_entities")):
        whole.pop("traffic_config", None)
    return whole


def _fits(traffic: Mapping[str, Any] | None, entities: Any) -> bool:
    """Whether a split that is kept names exactly the served entities, which may be anything that can be sent."""
    if traffic is None or not isinstance(entities, list):
        return False
    names = [name_of(entity) for entity in entities if isinstance(entity, Mapping)]
    return (
        names != []
        and all(isinstance(name, str) for name in names)
        and ({route["served_entity_name"] for route in traffic["routes"]} == set(names))
    )
