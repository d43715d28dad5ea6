"""The two usage tables: one row for each interaction, and one for each change of a served entity.

Source: ../shared/reference/databricks_contract.md 7.6
"""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import orjson
import pyarrow as pa

from llmops.endpoints.detail import served_entity_id
from llmops.endpoints.served_entity import ServedEntity
from llmops.endpoints.spec import EndpointSpec
from llmops.endpoints.store import StoredEndpoint
from llmops.interactions.delta_files import Design, Row
from llmops.interactions.payload_table import TIME, received, text
from llmops.interactions.record import Interaction

_MOST = 2**63 - 1

ENDPOINT_USAGE = Design(
    comment="llmops: tokens of each interaction of the endpoints that track usage",
    schema=pa.schema(
        [
            pa.field("account_id", pa.string()),
            pa.field("workspace_id", pa.string()),
            pa.field("client_request_id", pa.string()),
            pa.field("databricks_request_id", pa.string()),
            pa.field("requester", pa.string()),
            pa.field("status_code", pa.int32()),
            pa.field("request_time", TIME),
            pa.field("input_token_count", pa.int64()),
            pa.field("output_token_count", pa.int64()),
            pa.field("input_character_count", pa.int64()),
            pa.field("output_character_count", pa.int64()),
            pa.field("usage_context", pa.map_(pa.string(), pa.string())),
            pa.field("request_streaming", pa.bool_()),
            pa.field("served_entity_id", pa.string()),
        ]
    ),
    key="databricks_request_id",
    time="request_time",
)
_COMPUTE = [("min_concurrency", pa.int64()), ("max_concurrency", pa.int64()), ("compute_type", pa.string())]
_THROUGHPUT = [("min_provisioned_throughput", pa.int64()), ("max_provisioned_throughput", pa.int64())]
SERVED_ENTITIES = Design(
    comment="llmops: served entities, and when they were created, changed and deleted",
    schema=pa.schema(
        [
            pa.field("served_entity_id", pa.string()),
            pa.field("account_id", pa.string()),
            pa.field("workspace_id", pa.string()),
            pa.field("created_by", pa.string()),
            pa.field("endpoint_name", pa.string()),
            pa.field("endpoint_id", pa.string()),
            pa.field("served_entity_name", pa.string()),
            pa.field("entity_type", pa.string()),
            pa.field("entity_name", pa.string()),
            pa.field("entity_version", pa.string()),
            pa.field("endpoint_config_version", pa.int32()),
            pa.field("task", pa.string()),
            pa.field("external_model_config", pa.struct([("provider", pa.string())])),
            pa.field("foundation_model_config", pa.struct(_THROUGHPUT)),
            pa.field("custom_model_config", pa.struct(_COMPUTE)),
            pa.field("feature_spec_config", pa.struct(_COMPUTE)),
            pa.field("change_time", TIME),
            pa.field("endpoint_delete_time", TIME),
        ]
    ),
    key="served_entity_id",
    time="change_time",
)


def usage_row(one: Interaction, workspace_id: str) -> Row:
    """The row of an interaction; tokens are null where no model answered.

    Raises:
        TypeError, ValueError: The record is not what it should be.
    """
    usage, everything = one.usage, one.content == "everything"
    return {
        "account_id": None,
        "workspace_id": workspace_id,
        "client_request_id": text(one.client_request_id),
        "databricks_request_id": str(one.interaction_id),
        "requester": text(one.user),
        "status_code": int(one.status),
        "request_time": received(one),
        "input_token_count": min(int(usage.input_tokens), _MOST) if usage else None,
        "output_token_count": min(int(usage.output_tokens), _MOST) if usage else None,
        "input_character_count": _characters(one.request, _INPUT) if everything else None,
        "output_character_count": _characters(one.response, _OUTPUT) if everything else None,
        "usage_context": [(str(key), text(value)) for key, value in one.usage_context.items()],
        "request_streaming": bool(one.stream),
        "served_entity_id": text(one.served_entity_id),
    }


def entity_rows(endpoint: StoredEndpoint, spec: EndpointSpec, workspace_id: str) -> Iterator[Row]:
    """A row for each served entity of an endpoint as it is now."""
    for entity in spec.config.served_entities:
        yield {
            "served_entity_id": served_entity_id(endpoint.id, entity.name),
            "account_id": None,
            "workspace_id": workspace_id,
            "created_by": endpoint.creator,
            "endpoint_name": endpoint.name,
            "endpoint_id": endpoint.id,
            "served_entity_name": entity.name,
            "entity_type": "EXTERNAL_MODEL" if entity.external_model else "FOUNDATION_MODEL",
            "entity_name": entity.model if entity.external_model else entity.entity_name,
            "entity_version": entity.entity_version,
            "endpoint_config_version": endpoint.config_version,
            "task": str(entity.task),
            "external_model_config": {"provider": entity.external_model.provider} if entity.external_model else None,
            "foundation_model_config": _throughput(entity),
            "custom_model_config": None,
            "feature_spec_config": None,
            "change_time": datetime.fromtimestamp(endpoint.updated_ms / 1000, UTC),
            "endpoint_delete_time": None,
        }


def _throughput(entity: ServedEntity) -> Row | None:
    if entity.external_model is not None:
        return None
    return {name: getattr(entity, name) for name, _ in _THROUGHPUT}


#: Where the words of a request and of an answer are, in any of the wires.
_INPUT = ("system", "instructions", "messages", "prompt", "input")
_OUTPUT = ("choices", "output", "content")
#: Within those, what holds words or leads to them.
_WORDS = ("message", "content", "text", "refusal")


def _characters(body: str | None, keys: tuple[str, ...]) -> int | None:
    """How many characters of text a body holds; None where it is no JSON object."""
    try:
        document = orjson.loads(body or "")
    except ValueError:
        return None
    return sum(_length(document.get(key)) for key in keys) if isinstance(document, Mapping) else None


def _length(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, list):
        return sum(_length(one) for one in value)
    return sum(_length(value[key]) for key in _WORDS if key in value) if isinstance(value, Mapping) else 0
