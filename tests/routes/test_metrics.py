"""`/metrics`: what lies between an answer and its run, for whoever watches."""

import time
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import NewServer
from tests.server import Server, demo

OLDEST = ("llmops_spool_oldest_age_seconds", "interactions", "worker-0")
TOKEN = {"x-api-key": "a-token"}


def scraped(server: Server, **options: Any) -> dict[tuple[str, ...], float]:
    """Every sample by its name and label values."""
    answer = server.get("/metrics", **options)
    assert answer.headers["content-type"].startswith("text/plain")
    families = text_string_to_metric_families(answer.text)
    return {(s.name, *s.labels.values()): s.value for family in families for s in family.samples}


def stop_shipper(server: Server) -> None:
    server.processes("llmops.interactions.shipper")[0].suspend()


def test_what_waits_is_told_for_every_spool_and_sink(new_server: NewServer) -> None:
    server = new_server(demo())
    server.wait(lambda: scraped(server).get(("llmops_sink_ready", "mlflow")) == 1.0, 60)
    stop_shipper(server)
    began_s = time.monotonic()
    for _ in range(3):
        server.ask("demo")

    samples = scraped(server)
    age_s = samples[OLDEST]
    assert 0 < age_s <= time.monotonic() - began_s + 0.1
    server.wait(lambda: scraped(server)[OLDEST] > age_s)

    assert samples[("llmops_spool_records", "interactions", "worker-0")] == 3
    assert samples[("llmops_sink_waiting_records", "mlflow")] == 3
    assert samples[("llmops_sink_dead_letters", "mlflow")] == 0
    assert samples[("llmops_spool_bytes", "interactions", "worker-0")] > 3000
    assert samples[("llmops_spool_limit_bytes",)] == 4096e6
    assert samples[("llmops_interactions_lost_total", "0")] == 0
    assert samples[("llmops_shipper_up",)] == 1


def test_what_arrived_is_counted_and_the_spool_is_empty(new_server: NewServer) -> None:
    server = new_server(demo())
    for _ in range(3):
        server.ask("demo")

    server.wait(lambda: scraped(server).get(("llmops_sink_shipped_total", "mlflow")) == 3, 60)
    server.wait(lambda: scraped(server)[("llmops_sink_waiting_records", "mlflow")] == 0)

    assert ("llmops_sink_last_success_age_seconds", "mlflow") in scraped(server)
    server.wait(lambda: scraped(server)[OLDEST] == 0)


def test_any_worker_tells_of_all_of_them(new_server: NewServer) -> None:
    server = new_server(demo(), options=("--no-mlflow-ui", "--workers", "2"))

    server.wait(lambda: ("llmops_spool_full", "1") in scraped(server) and ("llmops_spool_full", "0") in scraped(server))

    assert {key[2] for key in scraped(server) if key[0] == "llmops_spool_records"} == {"worker-0", "worker-1"}


def test_what_a_killed_worker_lost_is_not_forgotten(new_server: NewServer) -> None:
    server = new_server(demo(), limit_file_kb=400)
    for _ in range(60):
        server.ask("demo", "x" * 20_000)
    lost = scraped(server)[("llmops_interactions_lost_total", "0")]
    tally = server.data_dir / "spool" / "worker-0.tally"
    server.wait(lambda: f'"lost":{lost:.0f}' in tally.read_text())
    (worker,) = server.processes("routes.worker")
    worker.kill()
    worker.wait(timeout=10)
    server.wait(lambda: _answers(server))

    assert lost > 0
    assert scraped(server)[("llmops_interactions_lost_total", "0")] >= lost


def test_metrics_ask_for_the_token(new_server: NewServer) -> None:
    server = new_server(demo(), environment={"LLMOPS_TOKEN": "a-token"})

    assert server.get("/metrics").status_code == 401
    assert scraped(server, headers=TOKEN)[("llmops_spool_damaged_files",)] == 0


def _answers(server: Server) -> bool:
    try:
        return server.get("/health").status_code == 200
    except httpx.HTTPError:
        return False
