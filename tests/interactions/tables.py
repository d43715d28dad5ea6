"""Interactions on their way into Delta tables, and what other programs find there."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
from deltalake import DeltaTable

from llmops.interactions.record import Interaction
from llmops.interactions.sink import Outcome
from llmops.interactions.spool import Leased
from llmops.interactions.table_sink import TableSink
from llmops.settings import Settings
from tests.interactions.records import plain

PAYLOAD = "main.default.chat_payload"
USAGE = "system.serving.endpoint_usage"
ENTITIES = "system.serving.served_entities"


def recorded(count: int = 1, *, table: str | None = PAYLOAD, usage: bool = False, **more: Any) -> list[Interaction]:
    """Interactions of an endpoint with an inference table."""
    return [replace(plain(), payload_table=table, usage_tracked=usage, **more) for _ in range(count)]


def leased(
    interactions: Sequence[Interaction], *, first: int = 1, tries: int = 1, spool: str = "spool-a"
) -> list[Leased[Interaction]]:
    """Records as the shipper hands them over, numbered from ``first``."""
    return [Leased(one, tries, seq, Path("worker-0.db"), spool_id=spool) for seq, one in enumerate(interactions, first)]


def delivered(settings: Settings, interactions: Sequence[Interaction], **more: Any) -> list[Outcome]:
    """Deliver records through a sink that has just been started."""
    sink = TableSink(settings)
    sink.open()
    try:
        return sink.deliver(leased(interactions, **more))
    finally:
        sink.close()


def delta(settings: Settings, name: str = PAYLOAD) -> DeltaTable:
    """A table as delta-rs reads it."""
    return DeltaTable(f"{settings.table_root}/{name.replace('.', '/')}")


def rows(settings: Settings, name: str = PAYLOAD) -> list[dict[str, Any]]:
    """All rows of a table, by time and id."""
    found: list[dict[str, Any]] = delta(settings, name).to_pyarrow_dataset().to_table().to_pylist()
    return sorted(found, key=lambda row: str(row.get("databricks_request_id")))


def ids(settings: Settings, name: str = PAYLOAD) -> list[str]:
    """The request ids of a table, sorted."""
    return [row["databricks_request_id"] for row in rows(settings, name)]


def asked(settings: Settings, query: str, name: str = PAYLOAD) -> list[tuple[Any, ...]]:
    """What DuckDB answers about a table it knows as ``t``."""
    with duckdb.connect() as database:
        database.register("t", delta(settings, name).to_pyarrow_dataset())
        return database.execute(query).fetchall()


def parquet_files(settings: Settings, name: str = PAYLOAD) -> list[Path]:
    """Every Parquet file that lies there, in the log or not."""
    folder = Path(settings.table_root) / name.replace(".", "/")
    return [path for path in folder.rglob("*.parquet") if "_delta_log" not in path.parts]
