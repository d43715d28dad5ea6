"""What a load generator has seen: counts and times of answers, and what went wrong."""

from array import array
from collections import Counter
from dataclasses import dataclass, field
from math import ceil
from typing import Any


@dataclass(slots=True)
class Tally:
    """Counts of one run; times in seconds.

    Attributes:
        statuses: Whole answers by HTTP status.
        errors: What was no whole answer, by what happened: connect, reset (before the body), cut (in it), malformed,
            unfinished when time was up; and no_done, a stream with status 200 that ended without ``[DONE]``.
        answered: Whole answers with status 200 (streams: that came to ``[DONE]``).
        events: Server-sent events, ``[DONE]`` not counted.
        body_bytes: Of answers, without heads and framing.
        latencies: Of answers with status 200, from when the request was due to the last byte.
        first_bytes: The same, to the first byte of the body.
    """

    statuses: Counter[int] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    answered: int = 0
    events: int = 0
    body_bytes: int = 0
    latencies: "array[float]" = field(default_factory=lambda: array("d"))
    first_bytes: "array[float]" = field(default_factory=lambda: array("d"))
    seconds: float = 0.0

    @property
    def failed(self) -> int:
        """Requests that did not get a whole answer with status 200."""
        refused = sum(count for status, count in self.statuses.items() if status != 200)
        return refused + sum(self.errors.values())

    def summary(self) -> dict[str, Any]:
        """As JSON: rates over the whole run, times in milliseconds; a percentile nobody reached is None."""
        return {
            "seconds": round(self.seconds, 3),
            "answered": self.answered,
            "failed": self.failed,
            "statuses": {str(status): count for status, count in sorted(self.statuses.items())},
            "errors": dict(self.errors),
            "requests_per_s": round(self.answered / self.seconds, 1) if self.seconds else 0.0,
            "events": self.events,
            "events_per_s": round(self.events / self.seconds, 1) if self.seconds else 0.0,
            "body_bytes": self.body_bytes,
            "latency_ms": percentiles(self.latencies),
            "first_byte_ms": percentiles(self.first_bytes),
        }


def percentiles(times: "array[float]") -> dict[str, float | None]:
    """The nearest-rank percentiles of times in seconds, as milliseconds."""
    ordered = sorted(times)
    ranks = {"p50": 0.5, "p99": 0.99, "p999": 0.999, "max": 1.0}
    if not ordered:
        return dict.fromkeys(ranks)
    return {name: round(ordered[max(0, ceil(share * len(ordered)) - 1)] * 1000, 4) for name, share in ranks.items()}
