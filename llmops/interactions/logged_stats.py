"""Figures over many interactions: of an endpoint, for all of the time or hour by hour."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import Self

#: The percentiles of a latency we tell.
PERCENTS = (50, 95, 99)
_HOUR_MS, _DAY_MS = 3_600_000, 86_400_000


@dataclass(frozen=True, slots=True)
class Period:
    """Hours or days, on the clock of one offset from UTC.

    A day of 23 hours would need a calendar in the database: all periods of one answer use the offset of now.
    """

    name: str
    length_ms: int
    offset_ms: int = 0

    @classmethod
    def of(cls, name: str) -> Self:
        """The period of this name, hour or day, on this machine's clock.

        Raises:
            KeyError: There is none.
        """
        offset = datetime.now(UTC).astimezone().utcoffset() or timedelta()
        return cls(name, {"hour": _HOUR_MS, "day": _DAY_MS}[name], int(offset.total_seconds() * 1000))

    def number(self, epoch_ms: int) -> int:
        """Which period this is in; the next one's number is one higher."""
        return (epoch_ms + self.offset_ms) // self.length_ms

    def start(self, number: int) -> str:
        """When a period begins, as ISO 8601 with its offset."""
        zone = timezone(timedelta(milliseconds=self.offset_ms))
        return datetime.fromtimestamp((number * self.length_ms - self.offset_ms) / 1000, zone).isoformat()


@dataclass(frozen=True, slots=True)
class EndpointStats:
    """Figures of one endpoint.

    Attributes:
        period: When the hour or day begins, ISO 8601; None where the figures are of all of the time.
        errors: Interactions that did not end with a whole answer; those the caller abandoned among them.
        latency_ms: The 50th, 95th and 99th percentile.
        first_token_ms: The median of streamed answers; None where nothing was streamed.
        cost_usd: The sum of known prices.
        unpriced: Interactions that used tokens whose price is not known: the sum is too low.
        whole: Whether all were counted; else the newest only, because there are too many to read one by one.
    """

    endpoint: str
    period: str | None
    requests: int
    errors: int
    latency_ms: tuple[float, float, float]
    first_token_ms: float | None
    input_tokens: int
    output_tokens: int
    cost_usd: float
    unpriced: int
    whole: bool = True

    def document(self) -> dict[str, object]:
        """As JSON."""
        p50, p95, p99 = self.latency_ms
        rest = {key: value for key, value in asdict(self).items() if key != "latency_ms"}
        return {**rest, "latency_p50_ms": p50, "latency_p95_ms": p95, "latency_p99_ms": p99}


def rank(count: int, percent: int) -> int:
    """The place, from 1, of a percentile among so many ordered values: the smallest that so many percent reach."""
    return -(-count * percent // 100)


def percentile(values: Iterable[float], percent: int) -> float | None:
    """The smallest value that so many percent of all do not exceed; None of none."""
    ordered = sorted(values)
    return ordered[rank(len(ordered), percent) - 1] if ordered else None


def latencies(found: Mapping[int, float]) -> tuple[float, float, float]:
    """The three percentiles by percent as the figures hold them; 0.0 where nothing was measured."""
    p50, p95, p99 = (found.get(percent, 0.0) for percent in PERCENTS)
    return p50, p95, p99
