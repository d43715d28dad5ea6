"""The payload table of an endpoint: one row for each interaction, with request and response whole.

Source: ../shared/reference/databricks_contract.md 7.5
"""

from datetime import UTC, datetime, timedelta

import pyarrow as pa

from llmops.interactions.delta_files import Design, Row
from llmops.interactions.record import Interaction

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

TIME = pa.timestamp("us", tz="UTC")
PAYLOAD = Design(
    comment="llmops: requests and responses of one serving endpoint",
    schema=pa.schema(
        [
            # 32 hex digits: the same as x-request-id, the MLflow run and `llmops interactions show`.
            pa.field("databricks_request_id", pa.string()),
            pa.field("request_date", pa.date32()),
            pa.field("client_request_id", pa.string()),
            pa.field("request_time", TIME),
            pa.field("status_code", pa.int32()),
            pa.field("sampling_fraction", pa.float64()),
            pa.field("execution_duration_ms", pa.int64()),
            pa.field("request", pa.string()),
            pa.field("response", pa.string()),
            pa.field("logging_error_codes", pa.list_(pa.string())),
            pa.field("served_entity_id", pa.string()),
            pa.field("requester", pa.string()),
        ]
    ),
    key="databricks_request_id",
    time="request_time",
    whole=("request", "response"),
    partition="request_date",
)


def received(one: Interaction) -> datetime:
    """When an interaction was received, to the microsecond."""
    return _EPOCH + timedelta(microseconds=one.received_ns // 1000)


def payload_row(one: Interaction) -> Row:
    """The row of an interaction. Payloads are never cut, so there is no logging error to tell of.

    Raises:
        TypeError, ValueError: The record is not what it should be.
    """
    everything = one.content == "everything"
    when = received(one)
    return {
        "databricks_request_id": str(one.interaction_id),
        "request_date": when.date(),
        "client_request_id": text(one.client_request_id),
        "request_time": when,
        "status_code": int(one.status),
        "sampling_fraction": float(one.sampling_fraction),
        "execution_duration_ms": execution_ms(one),
        "request": text(one.request) if everything else None,
        "response": text(one.response) if everything else None,
        "logging_error_codes": [],
        "served_entity_id": text(one.served_entity_id),
        "requester": text(one.user),
    }


def execution_ms(one: Interaction) -> int | None:
    """What the model took: the attempt that answered, its whole stream included, else the last that failed.

    Returns:
        None where no model was asked.
    """
    if not one.attempts:
        return None
    last = one.attempts[-1]
    streamed = one.stream and last.decision == "answered"
    # An attempt that streams ends, for the record, with its first chunk; its stream ends with the story.
    taken_ms = one.latency_ms - last.started_ms if streamed else last.duration_ms
    return max(round(taken_ms), 0)


def text(value: object) -> str | None:
    """A value as text; what a caller sends as a number is one, too."""
    return None if value is None else str(value)
