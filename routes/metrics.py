"""`/metrics`: the interaction log and the rate limits of this machine in Prometheus' text format.

Any worker tells of all of them.
"""

import asyncio
from collections.abc import Iterable

from fastapi import APIRouter, Depends, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from llmops.gateway.limits import Limits
from llmops.interactions.overview import Overview
from routes.auth import require_admin

router = APIRouter(tags=["Health"], dependencies=[Depends(require_admin)])

#: Counts of `WorkerState`, and what they count.
_NOT_RECORDED = {
    "lost": "answered and could not be written down",
    "sampled_out": "answered and left out, the spool being full",
    "refused": "refused, the spool being full",
    "unlogged": "left out because their endpoint wants it so",
}


@router.get("/metrics", summary="The interaction log in Prometheus' text format", response_class=Response)
async def metrics(request: Request) -> Response:
    """Spools, sinks, the shipper, what was not recorded, and what rate limits refused."""
    state = request.app.state
    overview = await asyncio.to_thread(state.overview, state.worker_state())
    registry = CollectorRegistry()
    registry.register(_InteractionLog(overview))
    registry.register(_RateLimits(state.limits))
    return Response(generate_latest(registry), headers={"content-type": CONTENT_TYPE_LATEST})


class _InteractionLog(Collector):
    """One reading of the interaction log as metrics."""

    def __init__(self, overview: Overview) -> None:
        self._overview = overview

    def collect(self) -> Iterable[Metric]:
        """Every metric, once."""
        yield from self._spools()
        yield from self._sinks()
        yield from self._workers()

    def _spools(self) -> Iterable[Metric]:
        overview, labels = self._overview, ("kind", "spool")
        depth = GaugeMetricFamily("llmops_spool_records", "Records that not every sink has.", labels=labels)
        size = GaugeMetricFamily("llmops_spool_bytes", "What of the file is in use.", labels=labels)
        oldest = GaugeMetricFamily(
            "llmops_spool_oldest_age_seconds", "Age of the oldest record; 0: none.", labels=labels
        )
        readable = GaugeMetricFamily("llmops_spool_readable", "Whether the file can be read.", labels=labels)
        for spool in overview.spools:
            values = (spool.kind, spool.name)
            readable.add_metric(values, spool.size is not None)
            if spool.size is not None:
                depth.add_metric(values, spool.size.depth)
                size.add_metric(values, spool.size.live_bytes)
                oldest.add_metric(values, overview.age_s(spool.size.oldest_ms) or 0.0)
        limit = GaugeMetricFamily("llmops_spool_limit_bytes", "A spool of this size is full.", overview.limit_bytes)
        damaged = GaugeMetricFamily(
            "llmops_spool_damaged_files", "Damaged files that were moved aside.", len(overview.damaged)
        )
        yield from (depth, size, oldest, readable, limit, damaged)

    def _sinks(self) -> Iterable[Metric]:
        overview, labels = self._overview, ("sink",)
        waiting = GaugeMetricFamily("llmops_sink_waiting_records", "Records a sink has still to get.", labels=labels)
        dead = GaugeMetricFamily("llmops_sink_dead_letters", "Records a sink will not get.", labels=labels)
        for name, count in sorted(overview.waiting.items()):
            waiting.add_metric((name,), count)
        # A sink without dead letters says so: an alert needs the zero.
        for name in sorted({*overview.waiting, *overview.dead}):
            dead.add_metric((name,), overview.dead.get(name, 0))
        shipped = CounterMetricFamily("llmops_sink_shipped", "Records a sink took from this shipper.", labels=labels)
        ready = GaugeMetricFamily("llmops_sink_ready", "Whether a sink takes records.", labels=labels)
        success = GaugeMetricFamily(
            "llmops_sink_last_success_age_seconds", "Since a sink last took a record.", labels=labels
        )
        for sink in overview.shipper.sinks if overview.shipper is not None else ():
            shipped.add_metric((sink.name,), sink.shipped)
            ready.add_metric((sink.name,), overview.shipping and sink.state == "ready")
            age_s = overview.age_s(sink.success_ms)
            if age_s is not None:
                success.add_metric((sink.name,), age_s)
        up = GaugeMetricFamily("llmops_shipper_up", "Whether a shipper runs.", int(overview.shipping))
        yield from (waiting, dead, shipped, ready, success, up)

    def _workers(self) -> Iterable[Metric]:
        for name, what in _NOT_RECORDED.items():
            family = CounterMetricFamily(f"llmops_interactions_{name}", f"Interactions {what}.", labels=("worker",))
            for state in self._overview.workers:
                family.add_metric((str(state.worker),), getattr(state, name))
            yield family
        full = GaugeMetricFamily("llmops_spool_full", "Whether a worker's spool is full.", labels=("worker",))
        for state in self._overview.workers:
            full.add_metric((str(state.worker),), state.full)
        yield full


class _RateLimits(Collector):
    """What the limits of this machine refused since the server started, and whether machines count together."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits

    def collect(self) -> Iterable[Metric]:
        """Every metric, once."""
        refused = CounterMetricFamily(
            "llmops_rate_limited_requests", "Requests that a rate limit refused.", labels=("key", "unit")
        )
        for labels, count in self._limits.meter.refusals().items():
            refused.add_metric(labels, count)
        yield refused
        if self._limits.is_shared:
            yield GaugeMetricFamily(
                "llmops_rate_limits_shared", "Whether Redis counts for this worker.", int(not self._limits.away)
            )
            yield CounterMetricFamily(
                "llmops_rate_limits_alone",
                "Requests of endpoints with limits that came while Redis was away.",
                self._limits.meter.alone(),
            )
            yield CounterMetricFamily(
                "llmops_rate_limits_dropped",
                "Corrections of reserved tokens that Redis was not told; they go after a minute.",
                self._limits.meter.dropped(),
            )
