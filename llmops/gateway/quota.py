"""What the rate limits of an endpoint demand of one request: conditions, each met while one of its cells has room.

A cell is a count over the last minute: the calls of an endpoint, the tokens of a user. All conditions must be met, and
then every cell is charged. Only groups make a condition of several cells: a member of two is refused only when both are
used up.

Source: ../shared/reference/databricks_contract.md 7.2
"""

import uuid
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import NamedTuple

from llmops.endpoints.rate_limits import RateLimit

CALLS, TOKENS = "calls", "tokens"
#: What a caller is told of whom a limit is for.
WORDS: Mapping[str, str] = {
    "endpoint": "endpoint",
    "user": "user",
    "user_group": "user group",
    "service_principal": "service principal",
}


@dataclass(frozen=True, slots=True)
class Who:
    """Whose request it is.

    Attributes:
        user: Empty where nobody is named; then all of these share one count.
    """

    user: str
    groups: frozenset[str]


class Cell(NamedTuple):
    """One count, and what a request needs of it.

    Attributes:
        name: 16 bytes.
        most: In any 60 seconds.
    """

    name: bytes
    most: int


@dataclass(frozen=True, slots=True)
class Condition:
    """What one limit, or the limits of all groups of a caller, demand.

    Attributes:
        key: endpoint, user, user_group or service_principal.
        unit: calls or tokens.
    """

    key: str
    unit: str
    cells: tuple[Cell, ...]


@dataclass(slots=True)
class Quota:
    """The rate limits of one endpoint.

    Attributes:
        endpoint: Its name, by which machines that share their counts know it.
    """

    endpoint: str
    _limits: dict[tuple[str, str, str | None], int] = field(default_factory=dict)
    _groups: dict[str, dict[str, int]] = field(default_factory=lambda: defaultdict(dict))

    @classmethod
    def of(cls, endpoint: str, limits: Sequence[RateLimit]) -> "Quota | None":
        """Compile the limits of an endpoint; None where it has none. Of two for the same, the stricter holds."""
        made = cls(endpoint)
        for limit in limits:
            named = (limit.unit, limit.key, limit.principal)
            made._limits[named] = min(limit.most, made._limits.get(named, limit.most))
            if limit.key == "user_group" and limit.principal is not None:
                made._groups[limit.unit][limit.principal] = made._limits[named]
        return made if limits else None

    @property
    def counts_tokens(self) -> bool:
        """Whether any limit is one of tokens."""
        return any(unit == TOKENS for unit, _, _ in self._limits)

    def conditions(self, who: Who) -> list[Condition]:
        """What a request of somebody must meet, the endpoint's own limits first."""
        return [*self._of(CALLS, who), *self._of(TOKENS, who)]

    def _of(self, unit: str, who: Who) -> Iterator[Condition]:
        whole = self._limits.get((unit, "endpoint", None))
        if whole is not None:
            yield self._condition(unit, "endpoint", {"": whole})
        limits = {key: self._limits.get((unit, key, who.user)) for key in ("user", "service_principal") if who.user}
        own = {key: most for key, most in limits.items() if most is not None}
        if own:
            # One count, so one condition; it replaces the default, and that of the groups.
            key = min(own, key=own.__getitem__)
            yield self._condition(unit, key, {who.user: own[key]})
            return
        kinds = ("service_principal", "user") if _is_application(who.user) else ("user",)
        default = next((key for key in kinds if (unit, key, None) in self._limits), None)
        if default is not None:
            yield self._condition(unit, default, {who.user: self._limits[unit, default, None]})
        groups = {name: most for name, most in self._groups.get(unit, {}).items() if name in who.groups}
        if groups:
            yield self._condition(unit, "user_group", groups)

    def _condition(self, unit: str, key: str, whom: Mapping[str, int]) -> Condition:
        # Whoever a user's default is for, what is counted is the user: a new limit of their own finds the count.
        kind = "principal" if key in ("user", "service_principal") else key
        return Condition(key, unit, tuple(Cell(self._name(unit, kind, name), most) for name, most in whom.items()))

    def _name(self, unit: str, kind: str, name: str) -> bytes:
        said = f"{self.endpoint}\0{unit}\0{kind}\0{name}"
        return blake2b(said.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _is_application(user: str) -> bool:
    """Whether a user is a service principal: those are named by the UUID of an application."""
    try:
        return str(uuid.UUID(user)) == user.lower()
    except ValueError:
        return False
