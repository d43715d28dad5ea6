"""What an import makes of a foreign file: endpoints, the keys they need, and everything that was left behind.

A foreign file is read key by key through `Part`; what nobody took is left behind and listed, so nothing is lost
silently. Values of keys never leave this module: they become secret references.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from llmops.endpoints.files import read_document
from llmops.endpoints.secrets import REFERENCE, parse, variable
from llmops.endpoints.spec import MAX_ENTITIES, EndpointSpec
from llmops.errors import InvalidSpec

Document = dict[str, Any]

NO_COUNTERPART = "has no counterpart here"
#: How MLflow's gateway and litellm name a variable of the environment in the place of a key.
_VARIABLE = re.compile(r"(?:\$|os\.environ/)([A-Za-z_][A-Za-z0-9_]*)")
_LONGEST_NAME = 63


@dataclass(frozen=True, slots=True)
class Left:
    """A field that was not carried over.

    Attributes:
        place: As ``model_list[0].litellm_params.rpm``.
        reason: Why; holds no value of a key.
    """

    place: str
    reason: str


@dataclass(frozen=True, slots=True)
class Key:
    """A secret that has to be set on the server.

    Attributes:
        variable: The environment variable it is looked for in.
        origin: Where its value is now: a variable of the environment as ``$NAME``, or a place in the file.
    """

    variable: str
    origin: str


@dataclass(slots=True)
class Harvest:
    """What has been made of a foreign file so far.

    Attributes:
        specs: The endpoints, in the file's order.
        left: What was not carried over, in the file's order.
        keys: The secrets that have to be set, by reference.
    """

    specs: list[EndpointSpec] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)
    keys: dict[str, Key] = field(default_factory=dict)
    _sources: dict[str, str] = field(default_factory=dict, repr=False)

    def leave(self, place: str, reason: str = NO_COUNTERPART) -> None:
        """List a field that is not carried over."""
        self.left.append(Left(_printable(place), _printable(reason)))

    def reference(self, value: str, place: str, scope: str) -> str:
        """The secret reference that stands for a key: the same key gives the same reference.

        Args:
            value: The key itself, a variable of the environment that holds it, or a reference already.
            place: Where it stands in the file.
            scope: Names the key where the file does not.
        """
        if REFERENCE.fullmatch(value):
            return value
        if value not in self._sources:
            named = _VARIABLE.fullmatch(value)
            wanted = _split(named[1]) if named else (_slug(scope), "key")
            reference = self._free(*wanted)
            self._sources[value] = reference
            origin = f"${named[1]}" if named else _printable(place)
            self.keys[reference] = Key(variable(*parse(reference)), origin)
        return self._sources[value]

    def keep(self, document: Document, place: str) -> None:
        """Add an endpoint if its document is valid; else list why it is left behind."""
        document = {**document, "name": self._named(str(document["name"]), place)}
        try:
            self.specs.append(read_document(document))
        except InvalidSpec as err:
            self.leave(place, f"gives no endpoint: {err.message}")

    def _named(self, wanted: str, place: str) -> str:
        """A name an endpoint may have and no other endpoint has."""
        taken = {spec.name for spec in self.specs}
        base = name = re.sub(r"^[^A-Za-z0-9]+", "", _dashed(wanted))[:_LONGEST_NAME] or "endpoint"
        number = 1
        while name in taken:
            number += 1
            name = f"{base[: _LONGEST_NAME - 4]}-{number}"
        if name != wanted:
            self.leave(place, f"its name '{wanted[:80]}' cannot be kept; the endpoint is '{name}'")
        return name

    def _free(self, scope: str, key: str) -> str:
        """A reference whose variable no other key has."""
        taken = {found.variable for found in self.keys.values()}
        number, wanted = 1, key
        while variable(scope, wanted) in taken:
            number += 1
            wanted = f"{key}-{number}"
        return f"{{{{secrets/{scope}/{wanted}}}}}"


class Part:
    """A mapping of a foreign file. Take what is known; `close` lists the rest as left behind."""

    def __init__(self, value: Any, place: str, harvest: Harvest) -> None:
        self._value: dict[Any, Any] = value if isinstance(value, dict) else {}
        self._taken: set[Any] = set()
        self.place = place
        self.harvest = harvest

    def __contains__(self, key: str) -> bool:
        return self._value.get(key) is not None

    def at(self, key: str) -> str:
        """The place of a key."""
        return f"{self.place}.{key}".lstrip(".")

    def text(self, key: str) -> str | None:
        """A text, or what YAML takes for a number or a date; None where it is missing, empty, or something else."""
        value = self._value.get(key)
        if isinstance(value, date):
            value = value.isoformat()
        if isinstance(value, bool) or not isinstance(value, str | int | float) or value == "":
            return None
        self._taken.add(key)
        return str(value)

    def number(self, key: str) -> float | None:
        """A number above zero; None where it is missing or something else."""
        value = self._value.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            return None
        self._taken.add(key)
        return float(value)

    def secret(self, key: str, scope: str) -> str | None:
        """The reference that stands for a key; None where there is none."""
        value = self.text(key)
        return None if value is None else self.harvest.reference(value, self.at(key), scope)

    def part(self, key: str) -> "Part":
        """A mapping inside; an empty one where there is none."""
        if isinstance(self._value.get(key), dict):
            self._taken.add(key)
        return Part(self._value.get(key), self.at(key), self.harvest)

    def parts(self, key: str) -> list["Part"]:
        """The mappings of a list inside; an item that is none is listed."""
        value = self._value.get(key)
        if not isinstance(value, list):
            return []
        self._taken.add(key)
        return list(self._mappings(key, value))

    def whole(self, key: str) -> Any:
        """A value as it stands."""
        self._taken.add(key)
        return self._value.get(key)

    def skip(self, *keys: str) -> None:
        """Pass over keys that say nothing of an endpoint."""
        self._taken.update(keys)

    def close(self, reason: str = NO_COUNTERPART) -> None:
        """List every key nobody took, apart from empty ones."""
        for key, value in self._value.items():
            if key not in self._taken and value not in (None, "", [], {}):
                self.harvest.leave(self.at(str(key)), reason)
        self._taken.update(self._value)

    def _mappings(self, key: str, value: list[Any]) -> Iterator["Part"]:
        for number, item in enumerate(value):
            place = f"{self.at(key)}[{number}]"
            if isinstance(item, dict):
                yield Part(item, place, self.harvest)
            else:
                self.harvest.leave(place, "is not a mapping")


def config(entities: list[Document], shares: list[float], harvest: Harvest, place: str) -> Document:
    """The config of an endpoint with these served entities and shares of the traffic; names are made to differ.

    Args:
        shares: Of each entity, in any unit; zero for one that only helps out.
    """
    for number, entity in enumerate(entities[MAX_ENTITIES:], MAX_ENTITIES + 1):
        harvest.leave(place, f"has more than {MAX_ENTITIES} models; number {number}, '{entity['name']}', is left out")
    kept: list[Document] = []
    for entity in entities[:MAX_ENTITIES]:
        taken = {other["name"] for other in kept}
        base = re.sub(r"^[^A-Za-z0-9]+", "", _dashed(entity["name"]))[: _LONGEST_NAME - 4] or "model"
        names = (base if number == 1 else f"{base}-{number}" for number in range(1, MAX_ENTITIES + 2))
        kept.append({**entity, "name": next(name for name in names if name not in taken)})
    if len(kept) == 1:
        return {"served_entities": kept}
    percentages = _percentages(shares[: len(kept)])
    routes = [
        {"served_entity_name": entity["name"], "traffic_percentage": share}
        for entity, share in zip(kept, percentages, strict=True)
    ]
    return {"served_entities": kept, "traffic_config": {"routes": routes}}


def _percentages(shares: list[float]) -> list[int]:
    """Whole percentages in the proportion of shares, which sum to 100: the largest remainders are rounded up."""
    if sum(shares) <= 0:
        shares = [1.0] * len(shares)
    largest = max(shares)
    exact = [share / largest for share in shares]
    exact = [100 * share / sum(exact) for share in exact]
    rounded = [int(share) for share in exact]
    by_remainder = sorted(range(len(exact)), key=lambda number: rounded[number] - exact[number])
    for number in by_remainder[: 100 - sum(rounded)]:
        rounded[number] += 1
    return rounded


def _split(name: str) -> tuple[str, str]:
    """Scope and key of a variable: OPENAI_API_KEY is openai/api_key."""
    scope, _, key = name.strip("_").lower().partition("_")
    return (scope, key) if scope and key.strip("_") else ("env", _slug(name))


def _slug(text: str) -> str:
    return _dashed(text).strip("-").lower()[:100] or "key"


def _dashed(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "-", text)


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)[:300]
