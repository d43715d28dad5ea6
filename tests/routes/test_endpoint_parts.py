"""Routes that change one part of an endpoint, and those of provisioned throughput, through the real clients."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from databricks.sdk import WorkspaceClient
from databricks.sdk.errors import InvalidParameterValue, ResourceConflict
from databricks.sdk.service.serving import (
    AiGatewayRateLimit,
    AiGatewayRateLimitKey,
    AiGatewayRateLimitRenewalPeriod,
    EmailNotifications,
    RateLimit,
    RateLimitRenewalPeriod,
    TelemetryConfig,
)
from mlflow.deployments import get_deploy_client

from tests.scripts import chat
from tests.server import Server, demo, external
from tests.upstream import Upstream

ENDPOINTS = "/api/2.0/serving-endpoints"
UNITS = {"provisioned_model_units": 50, "burst_scaling_enabled": False}


@pytest.fixture
def workspace(server: Server, monkeypatch: pytest.MonkeyPatch) -> WorkspaceClient:
    """The databricks-sdk, pointed here."""
    monkeypatch.setenv("DATABRICKS_HOST", server.url)
    monkeypatch.setenv("DATABRICKS_TOKEN", "anything")
    return WorkspaceClient()


@pytest.fixture
def created(server: Server, upstream: Upstream) -> Iterator[str]:
    """An endpoint of the scripted upstream."""
    server.post(ENDPOINTS, external("parts", upstream.url)).raise_for_status()
    yield "parts"
    httpx.delete(f"{server.url}{ENDPOINTS}/parts")


def provisioned(name: str) -> dict[str, Any]:
    """A body of `POST …/pt`: the demo, with the fields of provisioned throughput."""
    document = demo(name)
    document["config"]["served_entities"][0] |= UNITS
    return document


def test_rate_limits_are_kept_told_enforced_and_removed(
    server: Server, workspace: WorkspaceClient, created: str, upstream: Upstream
) -> None:
    upstream.play(chat())
    endpoints, limit = workspace.serving_endpoints, RateLimit(calls=0, renewal_period=RateLimitRenewalPeriod.MINUTE)

    put = endpoints.put(created, rate_limits=[limit]).rate_limits
    kept = server.endpoint(created)["rate_limits"]
    refused = server.ask(created)
    removed = get_deploy_client("databricks").update_endpoint_rate_limits(created, {"rate_limits": []})

    assert put == [limit]
    assert kept == [{"calls": 0, "renewal_period": "minute"}]
    assert (refused.status_code, refused.json()["error_code"]) == (429, "REQUEST_LIMIT_EXCEEDED")
    assert removed == {"rate_limits": []}
    assert server.ask(created).status_code == 200


def test_rate_limits_of_the_policies_are_kept_told_enforced_and_removed(
    server: Server, workspace: WorkspaceClient, created: str, upstream: Upstream
) -> None:
    upstream.play(chat(), chat(), chat())
    endpoints, key = workspace.serving_endpoints, AiGatewayRateLimitKey.USER
    minute = AiGatewayRateLimitRenewalPeriod.MINUTE
    limits = [AiGatewayRateLimit(tokens=0, renewal_period=minute, key=key, principal="ann")]
    limits += [AiGatewayRateLimit(calls=1, renewal_period=minute, key=key)]

    put = endpoints.put_ai_gateway(created, rate_limits=limits).rate_limits
    kept = endpoints.get(created).ai_gateway
    statuses = [server.ask(created, user=user).status_code for user in ("bob", "bob", "ann", "eve")]
    endpoints.put_ai_gateway(created)

    assert put == limits
    assert kept is not None
    assert kept.rate_limits == limits
    assert statuses == [200, 429, 429, 200]
    assert server.ask(created, user="bob").status_code == 200


def test_wrong_rate_limits_are_refused_with_the_field(workspace: WorkspaceClient, created: str) -> None:
    limit = RateLimit(calls=-1, renewal_period=RateLimitRenewalPeriod.MINUTE)

    with pytest.raises(InvalidParameterValue, match=r"rate_limits\[0\].calls: -1 is too small; at least 0"):
        workspace.serving_endpoints.put(created, rate_limits=[limit])


def test_rate_limits_of_another_shape_are_refused(server: Server, created: str) -> None:
    answer = httpx.put(f"{server.url}{ENDPOINTS}/{created}/rate-limits", json={"rate_limits": {"calls": 1}})

    assert (answer.status_code, answer.json()["message"]) == (400, "'rate_limits' must be a list")


def test_notifications_are_kept_and_told(workspace: WorkspaceClient, created: str) -> None:
    wanted = EmailNotifications(on_update_failure=["ops@example.org"])

    told = workspace.serving_endpoints.update_notifications(created, email_notifications=wanted)
    unchanged = workspace.serving_endpoints.update_notifications(created)

    assert (told.name, told.email_notifications) == (unchanged.name, unchanged.email_notifications) == (created, wanted)
    assert workspace.serving_endpoints.get(created).email_notifications == wanted


def test_telemetry_config_is_kept_and_removed(workspace: WorkspaceClient, created: str) -> None:
    wanted = TelemetryConfig(telemetry_profile_id="profile")

    kept = workspace.serving_endpoints.patch_telemetry_config(created, telemetry_config=wanted)
    removed = workspace.serving_endpoints.patch_telemetry_config(created)

    assert kept.telemetry_config == wanted
    assert (removed.name, removed.telemetry_config) == (created, None)


def test_parts_of_an_endpoint_that_a_file_owns_are_changed_there(workspace: WorkspaceClient) -> None:
    with pytest.raises(ResourceConflict, match="owned by the file"):
        workspace.serving_endpoints.patch_telemetry_config("demo")


@pytest.mark.parametrize(("method", "part"), [("PUT", "rate-limits"), ("PATCH", "notifications")])
def test_a_part_of_an_endpoint_that_is_not_there_is_404(server: Server, method: str, part: str) -> None:
    answer = httpx.request(method, f"{server.url}{ENDPOINTS}/nope/{part}", json={})

    assert (answer.status_code, answer.json()["error_code"]) == (404, "RESOURCE_DOES_NOT_EXIST")


def test_provisioned_throughput_is_accepted_and_told(server: Server) -> None:
    made = server.post(f"{ENDPOINTS}/pt", provisioned("units")).json()
    config = {"served_entities": [{**provisioned("units")["config"]["served_entities"][0], **UNITS, "name": "more"}]}
    updated = httpx.put(f"{server.url}{ENDPOINTS}/pt/units/config", json={"config": config}).json()
    flat = httpx.put(f"{server.url}{ENDPOINTS}/pt/units/config", json=config)
    answered = server.ask("units")
    httpx.delete(f"{server.url}{ENDPOINTS}/units").raise_for_status()

    assert UNITS.items() <= made["config"]["served_entities"][0].items()
    assert (updated["config"]["config_version"], updated["config"]["served_entities"][0]["name"]) == (2, "more")
    assert (flat.status_code, flat.json()["message"]) == (400, "'config' must be an object")
    assert answered.status_code == 200
