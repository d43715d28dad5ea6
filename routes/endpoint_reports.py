"""What one endpoint tells of itself: the logs of its engines, its numbers, its OpenAPI document.

Source: ../shared/reference/databricks_contract.md 1.1, 1.10
"""

import asyncio
from collections.abc import Callable, Iterable
from itertools import accumulate
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from llmops.endpoints.detail import READY
from llmops.endpoints.served_entity import ServedEntity
from llmops.endpoints.spec import EndpointSpec
from llmops.errors import NotFound
from llmops.gateway.counts import BUCKETS_MS, Counts
from llmops.gateway.table import LiveEndpoint, Table
from llmops.providers.children import BRIDGE, engine_key, needed
from llmops.providers.model_files import locate, missing
from llmops.settings import Settings
from routes.endpoint_openapi import describe
from routes.serving_endpoints import Endpoints, endpoints

router = APIRouter(prefix="/api/2.0/serving-endpoints", tags=["Serving endpoints"])

#: The last part of a log that is shown.
LOG_BYTES = 64 * 1024


class Reports:
    """Tells of the endpoints of this worker.

    Args:
        table: Gives the routing table of this moment.
        worker: Its number; the numbers are of this worker alone, and say so.
    """

    def __init__(self, settings: Settings, table: Callable[[], Table], counts: Counts, worker: int) -> None:
        self._settings = settings
        self._table = table
        self._counts = counts
        self._worker = worker

    def log(self, name: str, served: str) -> str:
        """The end of the log of the process that answers for a served entity; where there is none, why.

        Raises:
            NotFound: There is no such served entity.
        """
        entity = self._entity(name, served)
        if entity.external_model is not None:
            child = needed(entity, self._settings.model_dir)
            bridge = f", which logs for all endpoints to {self._path(BRIDGE)}" if child else ""
            return f"'{served}' is a vendor's model: no process of its own runs here{bridge}\n"
        if entity.llmops.engine != "llama_cpp":
            return f"'{served}' has no process of its own: it is reached over HTTP, or answers inside the server\n"
        return self._end_of(self._path(engine_key(entity)))

    def build_log(self, name: str, served: str) -> str:
        """What was prepared for a served entity: its weights, where it has some.

        Raises:
            NotFound: There is no such served entity.
        """
        entity = self._entity(name, served)
        if entity.external_model is not None or entity.llmops.engine != "llama_cpp":
            return f"nothing is built for '{served}': its model does not run here\n"
        source = entity.llmops.source or ""
        weights = locate(source, self._settings.model_dir)
        if weights is None:
            return missing(source, name) + "\n"
        return f"{source} is here: {weights} ({weights.stat().st_size} bytes); nothing else is built\n"

    def numbers(self, name: str) -> bytes:
        """The metrics of an endpoint, in OpenMetrics' text format.

        Raises:
            NotFound: There is none of that name.
        """
        self._counts.drop(frozenset(live.stored.id for live in self._table().endpoints.values()))
        registry = CollectorRegistry()
        registry.register(_Numbers(self._live(name), self._counts, self._worker))
        return bytes(generate_latest(registry))  # type: ignore[no-untyped-call]

    def _live(self, name: str) -> LiveEndpoint:
        live = self._table().endpoints.get(name)
        if live is None:
            raise NotFound(f"Endpoint with name '{name}' does not exist.")
        return live

    def _entity(self, name: str, served: str) -> ServedEntity:
        live = self._live(name)
        if live.task is not None:
            spec = EndpointSpec.model_validate(live.stored.document, extra="ignore")
            for entity in spec.config.served_entities:
                if entity.name == served:
                    return entity
        raise NotFound(f"Endpoint '{name}' has no served entity '{served}'.")

    def _path(self, key: str) -> Path:
        return self._settings.log_dir / f"{key}.log"

    def _end_of(self, path: Path) -> str:
        """The last part of a log; its first line is whole."""
        try:
            with path.open("rb") as file:
                size_bytes = file.seek(0, 2)
                file.seek(max(0, size_bytes - LOG_BYTES))
                tail = file.read(LOG_BYTES)
        except FileNotFoundError:
            return f"{path} does not exist yet: the engine was not started\n"
        if size_bytes > LOG_BYTES:
            tail = tail.partition(b"\n")[2]
        text = tail.decode("utf-8", "replace")
        # The engine knows the internal key and no other; whoever reads this may not.
        for secret in filter(None, (self._settings.internal_key, self._settings.token)):
            text = text.replace(secret, "***")
        return text


class _Numbers(Collector):
    """One reading of an endpoint's numbers."""

    def __init__(self, live: LiveEndpoint, counts: Counts, worker: int) -> None:
        self._live = live
        self._count = counts.of(live.stored.id)
        self._labels = (live.stored.name, str(worker))

    def collect(self) -> Iterable[Metric]:
        """Every metric, once."""
        count, of_worker = self._count, ("endpoint", "worker")
        since = "by this worker since it started"
        told = (
            ("request_count", f"Invocations answered {since}.", count.requests),
            ("request_4xx_count", f"Of them with a status of 400 to 499 {since}.", count.client_errors),
            ("request_5xx_count", f"Of them with a status from 500 on {since}.", count.server_errors),
        )
        for name, what, value in told:
            counter = CounterMetricFamily(name, what, labels=of_worker)
            counter.add_metric(self._labels, value)
            yield counter
        latency = HistogramMetricFamily(
            "request_latency_ms", f"From a request to the first byte of its answer, {since}.", labels=of_worker
        )
        bounds = [*(f"{bound:.1f}" for bound in BUCKETS_MS), "+Inf"]
        latency.add_metric(self._labels, list(zip(bounds, accumulate(count.latencies), strict=True)), count.latency_ms)
        yield latency
        yield from self._entities()

    def _entities(self) -> Iterable[Metric]:
        live, labels = self._live, ("endpoint", "served_entity")
        ready = GaugeMetricFamily("llmops_served_entity_ready", "Whether it can answer.", labels=labels)
        share = GaugeMetricFamily("llmops_served_entity_traffic_percentage", "Its share.", labels=labels)
        version = GaugeMetricFamily("llmops_endpoint_config_version", "The config that serves.", labels=("endpoint",))
        version.add_metric((live.stored.name,), live.stored.config_version)
        for entity, percentage in zip(live.entities, live.percentages, strict=True):
            named = (live.stored.name, entity.served[0])
            ready.add_metric(named, entity.state().deployment == READY)
            share.add_metric(named, percentage)
        yield from (ready, share, version)


def reports(request: Request) -> Reports:
    """The reports of this worker."""
    found: Reports = request.app.state.reports
    return found


Of = Annotated[Endpoints, Depends(endpoints)]
Told = Annotated[Reports, Depends(reports)]


@router.get("/{name}/served-models/{served}/logs", summary="Read the log of a served entity")
async def logs(of: Of, told: Told, name: str, served: str) -> dict[str, str]:
    """The last 64 KB that the engine of a served entity logged; for one without an engine, why there is none."""
    of.get(name)
    return {"logs": await asyncio.to_thread(told.log, name, served)}


@router.get("/{name}/served-models/{served}/build-logs", summary="Read how a served entity was prepared")
async def build_logs(of: Of, told: Told, name: str, served: str) -> dict[str, str]:
    """Where the weights of a served entity are, or how to get them; nothing is built here."""
    of.get(name)
    return {"logs": await asyncio.to_thread(told.build_log, name, served)}


@router.get("/{name}/metrics", summary="Metrics of an endpoint", response_class=Response)
async def metrics(of: Of, told: Told, name: str) -> Response:
    """Counts and latencies of this worker, and the state of the served entities, in OpenMetrics' text format."""
    of.get(name)
    return Response(told.numbers(name), headers={"content-type": CONTENT_TYPE_LATEST})


@router.get("/{name}/openapi", summary="OpenAPI document of an endpoint")
async def openapi(of: Of, request: Request, name: str) -> dict[str, Any]:
    """How this endpoint is invoked, as an OpenAPI 3.1 document of its task."""
    return describe(of.get(name), str(request.base_url).rstrip("/"))
