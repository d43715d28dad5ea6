"""The numbers of one benchmark run: what every load on every system gave, round by round."""

from collections import defaultdict
from collections.abc import Mapping
from statistics import median
from typing import Any


class Rounds:
    """Summaries of `benchmarks.load` by measure and system.

    Attributes:
        systems: Names, in the order they are shown.
        rss_mb: Resident memory of each system's worker after its last load.
        busy: Cores that were busy while every system was still: above 0.2, others disturb the numbers.
    """

    def __init__(self, systems: tuple[str, ...]) -> None:
        self.systems = systems
        self.rss_mb: dict[str, float] = {}
        self.busy: list[float] = []
        self._summaries: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)

    @property
    def rounds(self) -> int:
        """How often each measure was taken."""
        return min((len(each) for each in self._summaries.values()), default=0)

    def add(self, measure: str, system: str, summary: Mapping[str, Any]) -> None:
        """Keep one round."""
        self._summaries[measure, system].append(summary)

    def median(self, measure: str, system: str, *path: str) -> float | None:
        """The median of one number over the rounds; None where it was not measured.

        Args:
            path: Keys into the summary: ``"latency_ms", "p50"``.
        """
        values = [_at(summary, path) for summary in self._summaries.get((measure, system), ())]
        known = [value for value in values if value is not None]
        return median(known) if known else None

    def total(self, system: str, key: str) -> int:
        """The sum of one count of a system over every measure and round, the warm-up included."""
        return sum(int(each[key]) for (_, name), all_of in self._summaries.items() if name == system for each in all_of)


def _at(summary: Mapping[str, Any], path: tuple[str, ...]) -> float | None:
    value: Any = summary
    for key in path:
        value = value[key]
    return None if value is None else float(value)
