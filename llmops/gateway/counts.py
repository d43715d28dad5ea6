"""How often this worker invoked each endpoint since it started, and how long that took."""

from bisect import bisect_left
from dataclasses import dataclass, field

#: Upper bounds of the histogram, in milliseconds; what is longer is in one bucket more.
BUCKETS_MS = (10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000, 120_000, 300_000)


@dataclass(slots=True)
class Count:
    """The invocations of one endpoint.

    Attributes:
        client_errors: Answered with a status of 400 to 499, or left by their caller before the first byte.
        server_errors: Answered with a status from 500 on.
        latencies: How many fell into each bucket of `BUCKETS_MS`, and into the one after the last.
        latency_ms: Sum, from the request to the first byte of its answer.
    """

    requests: int = 0
    client_errors: int = 0
    server_errors: int = 0
    latency_ms: float = 0.0
    latencies: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS_MS) + 1))


class Counts:
    """The counts of one worker; nothing of it is kept when the worker ends."""

    def __init__(self) -> None:
        self._of: dict[str, Count] = {}

    def note(self, endpoint_id: str | None, status: int, latency_ms: float) -> None:
        """Count one invocation; one that found no endpoint belongs to none."""
        if endpoint_id is None:
            return
        count = self._of.setdefault(endpoint_id, Count())
        count.requests += 1
        count.client_errors += 400 <= status < 500
        count.server_errors += status >= 500
        count.latency_ms += latency_ms
        count.latencies[bisect_left(BUCKETS_MS, latency_ms)] += 1

    def of(self, endpoint_id: str) -> Count:
        """The count of an endpoint, by its id: one that was made anew under an old name begins anew."""
        return self._of.get(endpoint_id) or Count()

    def drop(self, endpoint_ids: frozenset[str]) -> None:
        """Forget all endpoints but these."""
        for gone in self._of.keys() - endpoint_ids:
            del self._of[gone]
