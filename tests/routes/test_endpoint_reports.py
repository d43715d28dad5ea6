"""What one endpoint tells of itself: logs, numbers, its OpenAPI document; through the databricks-sdk where it asks."""

from collections.abc import Iterator, Mapping
from typing import Any

import httpx
import jsonschema
import pytest
from databricks.sdk import WorkspaceClient
from databricks.sdk.errors import NotFound
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from tests.conftest import KEY, NewServer
from tests.providers import gguf_model
from tests.scripts import chat, completion, embeddings, status
from tests.server import Server, demo, external
from tests.upstream import Upstream

BODIES: Mapping[str, dict[str, Any]] = {
    "up": {"messages": [{"role": "user", "content": "hi"}], "temperature": 0.5},
    "up-completions": {"prompt": "Once", "max_tokens": 3},
    "up-embeddings": {"input": ["a", "b"]},
}
REPLIES = {"up": chat(), "up-completions": completion(), "up-embeddings": embeddings((0.5,), (0.25,))}


@pytest.fixture
def workspace(server: Server) -> WorkspaceClient:
    """The real databricks-sdk, pointed here."""
    return WorkspaceClient(host=server.url, token="anything")


@pytest.fixture
def counted(server: Server, upstream: Upstream) -> Iterator[str]:
    """An endpoint nobody has asked yet."""
    server.post("/api/2.0/serving-endpoints", external("counted", upstream.url)).raise_for_status()
    yield "counted"
    httpx.delete(f"{server.url}/api/2.0/serving-endpoints/counted").raise_for_status()


def numbers(server: Server, name: str) -> dict[str, float]:
    """The samples of an endpoint's metrics, by name; of a histogram the buckets by name and bound."""
    answer = server.get(f"/api/2.0/serving-endpoints/{name}/metrics")
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    families = text_string_to_metric_families(answer.text)  # type: ignore[no-untyped-call]
    samples = [sample for family in families for sample in family.samples]
    assert {sample.labels["endpoint"] for sample in samples} == {name}
    return {sample.name + sample.labels.get("le", ""): sample.value for sample in samples}


def test_the_log_of_an_engine_is_told_and_its_key_is_not(new_server: NewServer) -> None:
    server = new_server(demo())
    weights = gguf_model.write(server.data_dir / "tiny.gguf")
    engine = {"engine": "llama_cpp", "source": str(weights), "task": "llm/v1/chat"}
    local = {"name": "tiny", "entity_name": "llmops.tiny", "llmops": engine}
    server.post("/api/2.0/serving-endpoints", {"name": "tiny", "config": {"served_entities": [local]}})
    server.wait(lambda: server.endpoint("tiny")["state"]["ready"] == "READY")
    (log,) = (server.data_dir / "logs").glob("llama_cpp-*.log")
    key = server.processes("llama_cpp")[0].environ()["LLMOPS_INTERNAL_KEY"]
    with log.open("a") as file:
        file.write("x" * 100_000 + f"\nauthorization: Bearer {key}\nthe last line\n")
    endpoints = WorkspaceClient(host=server.url, token="anything").serving_endpoints

    told = endpoints.logs("tiny", "tiny").logs
    built = endpoints.build_logs("tiny", "tiny").logs

    assert told == "authorization: Bearer ***\nthe last line\n"
    assert f"{weights} ({weights.stat().st_size} bytes)" in built


def test_an_entity_without_an_engine_says_why_it_has_no_log(workspace: WorkspaceClient) -> None:
    endpoints = workspace.serving_endpoints

    assert endpoints.logs("up", "up").logs == "'up' is a vendor's model: no process of its own runs here\n"
    assert "has no process of its own" in endpoints.logs("demo", "eliza").logs
    assert endpoints.build_logs("up", "up").logs == "nothing is built for 'up': its model does not run here\n"


def test_weights_that_are_not_here_are_told_in_the_build_log(server: Server, workspace: WorkspaceClient) -> None:
    engine = {"engine": "llama_cpp", "source": "hf://org/repo/model.gguf"}
    absent = {"name": "absent", "entity_name": "llmops.absent", "llmops": engine}
    server.post("/api/2.0/serving-endpoints", {"name": "absent", "config": {"served_entities": [absent]}})

    built = workspace.serving_endpoints.build_logs("absent", "absent").logs
    logged = workspace.serving_endpoints.logs("absent", "absent").logs
    workspace.serving_endpoints.delete("absent")

    assert "llmops models pull" in built
    assert "the engine was not started" in logged


@pytest.mark.parametrize("report", ["served-models/none/logs", "served-models/none/build-logs"])
def test_a_report_of_an_entity_that_is_not_there_is_404(server: Server, report: str) -> None:
    answer = server.get(f"/api/2.0/serving-endpoints/up/{report}")

    assert (answer.status_code, answer.json()["message"]) == (404, "Endpoint 'up' has no served entity 'none'.")


@pytest.mark.parametrize("report", ["served-models/up/logs", "served-models/up/build-logs", "metrics", "openapi"])
def test_a_report_of_an_endpoint_that_is_not_there_is_404(server: Server, report: str) -> None:
    answer = server.get(f"/api/2.0/serving-endpoints/nope/{report}")

    assert (answer.status_code, answer.json()["error_code"]) == (404, "RESOURCE_DOES_NOT_EXIST")


def test_invocations_are_counted_by_their_status(server: Server, upstream: Upstream, counted: str) -> None:
    upstream.play(chat(), status(500), status(400))

    before = numbers(server, counted)
    for _ in range(3):
        server.ask(counted)
    after = numbers(server, counted)

    assert before["request_count_total"] == before["request_latency_ms_count"] == 0
    assert after["request_count_total"] == after["request_latency_ms_count"] == 3
    assert after["request_latency_ms_bucket+Inf"] == 3
    assert (after["request_4xx_count_total"], after["request_5xx_count_total"]) == (1, 1)
    assert after["request_latency_ms_sum"] > 0
    assert after["llmops_served_entity_ready"] == after["llmops_endpoint_config_version"] == 1
    assert after["llmops_served_entity_traffic_percentage"] == 100


def test_an_endpoint_made_anew_under_an_old_name_begins_anew(server: Server, upstream: Upstream) -> None:
    for _ in range(2):
        server.post("/api/2.0/serving-endpoints", external("again", upstream.url)).raise_for_status()
        upstream.play(chat())
        server.ask("again").raise_for_status()
        counted = numbers(server, "again")
        httpx.delete(f"{server.url}/api/2.0/serving-endpoints/again").raise_for_status()

    assert counted["request_count_total"] == 1


def test_the_sdk_exports_metrics_and_openapi_as_they_are(workspace: WorkspaceClient) -> None:
    metrics = workspace.serving_endpoints.export_metrics("up").contents
    document = workspace.serving_endpoints.get_open_api("up").contents
    assert metrics is not None
    assert document is not None

    assert metrics.read().endswith(b"# EOF\n")
    assert document.read().startswith(b'{"openapi":"3.1.0"')
    with pytest.raises(NotFound):
        workspace.serving_endpoints.export_metrics("nope")


@pytest.mark.parametrize("name", BODIES)
def test_the_openapi_document_describes_what_the_endpoint_takes_and_gives(
    server: Server, upstream: Upstream, name: str
) -> None:
    document = server.get(f"/api/2.0/serving-endpoints/{name}/openapi").json()
    path = f"/serving-endpoints/{name}/invocations"
    post = document["paths"][path]["post"]
    taken = post["requestBody"]["content"]["application/json"]["schema"]
    given = post["responses"]["200"]["content"]["application/json"]["schema"]
    failed = post["responses"]["default"]["content"]["application/json"]["schema"]
    upstream.play(REPLIES[name])

    answer = httpx.post(document["servers"][0]["url"] + path, json=BODIES[name]).json()
    refused = server.post(path, {"nothing": 1})

    assert refused.status_code == 400
    for schema, value in ((taken, BODIES[name]), (given, answer), (failed, refused.json())):
        jsonschema.Draft202012Validator.check_schema(schema)
        jsonschema.validate(value, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"nothing": 1}, taken)


def test_the_key_of_an_endpoint_is_in_no_report(server: Server, upstream: Upstream) -> None:
    reports = ("served-models/up/logs", "served-models/up/build-logs", "metrics", "openapi")

    for report in reports:
        answer = server.get(f"/api/2.0/serving-endpoints/up/{report}")

        assert answer.status_code == 200
        assert KEY not in answer.text
