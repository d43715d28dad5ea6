"""databricks-sdk's ``serving_endpoints``: the parts of one endpoint, what it tells of itself, who may do what."""

from typing import IO

import pytest
from databricks.sdk import WorkspaceClient
from databricks.sdk.errors import BadRequest, InvalidParameterValue
from databricks.sdk.mixins.open_ai_client import ServingEndpointsExt
from databricks.sdk.service.serving import (
    AiGatewayInferenceTableConfig,
    AiGatewayRateLimit,
    AiGatewayRateLimitRenewalPeriod,
    AiGatewayUsageTrackingConfig,
    EmailNotifications,
    EndpointTag,
    ExternalFunctionRequestHttpMethod,
    FallbackConfig,
    RateLimit,
    RateLimitRenewalPeriod,
    ServingEndpointAccessControlRequest,
    ServingEndpointPermissionLevel,
    ServingEndpointPermissions,
    TelemetryConfig,
)

from tests.clients.stage import Stage

QUERY, MANAGE = ServingEndpointPermissionLevel.CAN_QUERY, ServingEndpointPermissionLevel.CAN_MANAGE


@pytest.fixture
def endpoints() -> ServingEndpointsExt:
    return WorkspaceClient().serving_endpoints


def text(contents: IO[bytes] | None) -> str:
    assert contents is not None
    return contents.read().decode()


def grants(told: ServingEndpointPermissions) -> dict[str, ServingEndpointPermissionLevel]:
    """Who was given what on the endpoint itself."""
    return {
        entry.user_name or entry.group_name or "": permission.permission_level
        for entry in told.access_control_list or []
        for permission in entry.all_permissions or []
        if permission.permission_level is not None and not permission.inherited
    }


@pytest.mark.call("patch")
def test_tags_are_added_and_deleted(endpoints: ServingEndpointsExt, stage: Stage) -> None:
    name = stage.make(tags=[{"key": "old"}])

    told = endpoints.patch(name, add_tags=[EndpointTag(key="new", value="1")], delete_tags=["old"])

    assert told.tags == [EndpointTag(key="new", value="1")]


@pytest.mark.call("put")
def test_rate_limits_are_replaced(endpoints: ServingEndpointsExt, stage: Stage) -> None:
    name, limit = stage.make(), RateLimit(calls=1, renewal_period=RateLimitRenewalPeriod.MINUTE)

    assert endpoints.put(name, rate_limits=[limit]).rate_limits == [limit]
    assert endpoints.put(name, rate_limits=[]).rate_limits == []
    with pytest.raises(InvalidParameterValue, match=r"rate_limits\[0\].calls: -1 is too small"):
        endpoints.put(name, rate_limits=[RateLimit(calls=-1, renewal_period=RateLimitRenewalPeriod.MINUTE)])


@pytest.mark.call("put_ai_gateway")
def test_the_ai_gateway_block_is_replaced(endpoints: ServingEndpointsExt, stage: Stage) -> None:
    name, table = stage.make(), AiGatewayInferenceTableConfig(catalog_name="main", schema_name="llm", enabled=True)

    first = endpoints.put_ai_gateway(name, inference_table_config=table)
    second = endpoints.put_ai_gateway(
        name, fallback_config=FallbackConfig(True), usage_tracking_config=AiGatewayUsageTrackingConfig(enabled=True)
    )

    assert first.inference_table_config is not None
    assert first.inference_table_config.schema_name == "llm"
    assert first.inference_table_config.table_name_prefix == name
    assert (second.inference_table_config, second.fallback_config) == (None, FallbackConfig(True))
    assert endpoints.get(name).ai_gateway is not None


@pytest.mark.call("put_ai_gateway")
def test_limits_of_the_ai_gateway_are_kept_and_told(endpoints: ServingEndpointsExt, stage: Stage) -> None:
    minute = AiGatewayRateLimitRenewalPeriod.MINUTE
    limits, name = [AiGatewayRateLimit(minute, calls=1), AiGatewayRateLimit(minute, tokens=9)], stage.make()

    assert endpoints.put_ai_gateway(name, rate_limits=limits).rate_limits == limits
    with pytest.raises(InvalidParameterValue, match=r"rate_limits\[0\]: needs calls or tokens, one of the two"):
        endpoints.put_ai_gateway(name, rate_limits=[AiGatewayRateLimit(minute)])


@pytest.mark.call("update_notifications")
def test_notifications_are_kept(endpoints: ServingEndpointsExt, stage: Stage) -> None:
    name, wanted = stage.make(), EmailNotifications(on_update_failure=["ops@example.org"], on_update_success=[])

    told = endpoints.update_notifications(name, email_notifications=wanted)

    assert told.name == name
    assert told.email_notifications is not None
    assert told.email_notifications.on_update_failure == ["ops@example.org"]
    assert endpoints.get(name).email_notifications == told.email_notifications


@pytest.mark.call("patch_telemetry_config")
def test_telemetry_is_kept_and_removed(endpoints: ServingEndpointsExt, stage: Stage) -> None:
    name, wanted = stage.make(), TelemetryConfig(telemetry_profile_id="profile")

    assert endpoints.patch_telemetry_config(name, telemetry_config=wanted).telemetry_config == wanted
    assert endpoints.patch_telemetry_config(name).telemetry_config is None


@pytest.mark.call("logs", "build_logs")
def test_logs_say_why_there_are_none(endpoints: ServingEndpointsExt, stage: Stage) -> None:
    name = stage.make()

    assert "is a vendor's model" in endpoints.logs(name, name).logs
    assert "nothing is built" in endpoints.build_logs(name, name).logs
    assert "no process of its own" in endpoints.logs("demo", "eliza").logs


@pytest.mark.call("export_metrics")
def test_metrics_are_read_as_openmetrics(endpoints: ServingEndpointsExt, stage: Stage) -> None:
    told = text(endpoints.export_metrics(stage.make()).contents)

    assert "# TYPE request_latency_ms histogram" in told
    assert told.endswith("# EOF\n")


@pytest.mark.call("get_open_api")
def test_the_openapi_document_is_of_that_endpoint(endpoints: ServingEndpointsExt, stage: Stage) -> None:
    name = stage.make()

    told = text(endpoints.get_open_api(name).contents)

    assert told.startswith('{"openapi":"3.1')
    assert f"/serving-endpoints/{name}/invocations" in told


@pytest.mark.call("get_permissions", "set_permissions")
@pytest.mark.call("update_permissions")
def test_permissions_are_set_and_changed(endpoints: ServingEndpointsExt, stage: Stage) -> None:
    endpoint_id = stage.tell(stage.make())["id"]
    ann = ServingEndpointAccessControlRequest(user_name="ann@example.org", permission_level=QUERY)
    team = ServingEndpointAccessControlRequest(group_name="red", permission_level=MANAGE)

    first = endpoints.set_permissions(endpoint_id, access_control_list=[ann])
    endpoints.update_permissions(endpoint_id, access_control_list=[team])
    third = endpoints.get_permissions(endpoint_id)

    assert first.object_id == f"/serving-endpoints/{endpoint_id}"
    assert grants(first)["ann@example.org"] is QUERY
    assert "red" not in grants(first)
    assert {"ann@example.org": QUERY, "red": MANAGE}.items() <= grants(third).items()


@pytest.mark.call("get_permission_levels")
def test_permission_levels_are_told(endpoints: ServingEndpointsExt, stage: Stage) -> None:
    told = endpoints.get_permission_levels(stage.tell(stage.make())["id"])

    assert {level.permission_level for level in told.permission_levels or []} == set(ServingEndpointPermissionLevel)


@pytest.mark.refused("http_request")
def test_a_connection_is_refused_once(endpoints: ServingEndpointsExt) -> None:
    with pytest.raises(BadRequest, match="connection 'github' does not exist: this server keeps no Unity Catalog"):
        endpoints.http_request("github", ExternalFunctionRequestHttpMethod.POST, "/x", json={"a": "b"})
