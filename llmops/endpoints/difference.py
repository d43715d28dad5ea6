"""What differs between two documents of an endpoint, field by field, whatever way they are written.

Two documents that mean the same are the same here: a default that is written down, an empty block, the one route of a
single served entity, the order of tags and routes make no difference. The order of served entities does: a fallback
follows it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from llmops.endpoints.files import read_document
from llmops.endpoints.log_policy import EndpointExtras
from llmops.endpoints.spec import EndpointSpec

Plain = dict[str, Any]

#: What names an item of a list, by the list's place.
_KEYS = {
    "config.served_entities": "name",
    "config.traffic_config.routes": "served_entity_name",
    "tags": "key",
}
_FIRST = ("name", "description")
ABSENT: Any = None


@dataclass(frozen=True, slots=True)
class Change:
    """One field that differs.

    Attributes:
        field: Its place, as ``config.served_entities[gpt].external_model.name``.
        old: None where the field is new.
        new: None where the field is gone.
    """

    field: str
    old: Any
    new: Any

    def document(self) -> Plain:
        """The change as plain JSON."""
        return {"field": self.field, "old": self.old, "new": self.new}


def asked(answer: Mapping[str, Any]) -> EndpointSpec:
    """What was asked for, of what a server answers about an endpoint: without what the server added.

    A config that is on its way counts, or did not get ready: it was asked for last.

    Raises:
        InvalidSpec: The endpoint's document has problems, or is of a release that knows more than this one.
    """
    extras = answer.get("llmops") or {}
    ours = {key: extras[key] for key in EndpointExtras.model_fields if key in extras}
    config = answer.get("pending_config") or answer.get("config")
    return read_document({**answer, "config": config, "llmops": ours})


def plain(spec: EndpointSpec) -> Plain:
    """The shortest document that means the same, in a fixed order."""
    whole = _without_empty(spec.model_dump(mode="json", exclude_defaults=True, exclude_none=True))
    entities, config = spec.config.served_entities, whole["config"]
    table = whole.get("ai_gateway", {}).get("inference_table_config", {})
    if table.get("table_name_prefix") == spec.name:
        del table["table_name_prefix"]
    if len(entities) == 1:
        config.pop("traffic_config", None)
    elif "traffic_config" in config:
        order = {entity.name: number for number, entity in enumerate(entities)}
        config["traffic_config"]["routes"].sort(key=lambda route: order[route["served_entity_name"]])
    return {key: whole[key] for key in (*_FIRST, *(key for key in whole if key not in _FIRST)) if key in whole}


def changes(old: EndpointSpec | None, new: EndpointSpec | None) -> list[Change]:
    """What has to change for one document to become the other; None is an endpoint that is not there."""
    before = dict(_fields(plain(old))) if old else {}
    after = dict(_fields(plain(new))) if new else {}
    places = [*after, *(place for place in before if place not in after)]
    return [
        Change(place, before.get(place, ABSENT), after.get(place, ABSENT))
        for place in places
        if before.get(place, ABSENT) != after.get(place, ABSENT)
    ]


def _without_empty(value: Any) -> Any:
    if not isinstance(value, dict):
        return [_without_empty(item) for item in value] if isinstance(value, list) else value
    shorter = {key: _without_empty(item) for key, item in value.items()}
    return {key: item for key, item in shorter.items() if item is not None and item != {} and item != []}


def _fields(value: Any, place: str = "", inside: str = "") -> Iterator[tuple[str, Any]]:
    """Every field below a place; ``inside`` is the place without the names of items."""
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _fields(item, f"{place}.{key}".lstrip("."), f"{inside}.{key}".lstrip("."))
        return
    names = [item.get(_KEYS[inside]) for item in value] if inside in _KEYS else []
    if not names or len(set(names)) < len(names):
        yield place, value
        return
    for name, item in zip(names, value, strict=True):
        yield from _fields({k: v for k, v in item.items() if k != _KEYS[inside]}, f"{place}[{name}]", inside)
    if inside == "config.served_entities":
        yield f"{place} in order", names
