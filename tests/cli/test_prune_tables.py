"""Old rows of inference tables deleted, also of those that nobody writes any more."""

from dataclasses import replace
from typing import Any

import pytest
from deltalake import DeltaTable

from llmops.endpoints.detail import served_entity_id
from llmops.interactions.record import Interaction, new_id
from llmops.interactions.table_sink import TableSink
from llmops.settings import Settings
from tests.cli.pruning import aged, change, delete, endpoint, endpoints, pruned
from tests.interactions.deliveries import delivered, leased
from tests.interactions.records import plain

TABLE = {"enabled": True, "catalog_name": "main", "schema_name": "log", "table_name_prefix": "chat"}


@pytest.fixture
def settings(either_store: Settings) -> Settings:
    """Settings of a data directory of this test's own."""
    return either_store


def tabled(settings: Settings, *interactions: Interaction) -> None:
    sink = TableSink(settings)
    sink.open()
    sink.deliver(leased(interactions))
    sink.close()


def rows(settings: Settings, table: str) -> set[str]:
    found = DeltaTable(f"{settings.table_root}/{table.replace('.', '/')}").to_pyarrow_table().to_pylist()
    return {row["databricks_request_id"] for row in found}


def test_rows_of_inference_tables_are_as_old_as_their_interactions(settings: Settings) -> None:
    endpoint(settings, "chat", llmops={"retention_days": 30}, ai_gateway={"inference_table_config": TABLE})
    old, young = (replace(aged(plain(), days), payload_table="main.log.chat_payload") for days in (31, 29))
    tabled(settings, old, young)
    delivered(settings, young)

    assert pruned(settings)["tables"] == {"main.log.chat_payload": 1}
    assert rows(settings, "main.log.chat_payload") == {young.interaction_id}


@pytest.mark.parametrize("then", ["disabled", "moved", "deleted"])
def test_a_table_that_is_not_written_any_more_gets_older(settings: Settings, then: str) -> None:
    """And so do the rows of usage that is not tracked any more."""
    gateway = {"inference_table_config": TABLE, "usage_tracking_config": {"enabled": True}}
    endpoint(settings, "chat", llmops={"retention_days": 30}, ai_gateway=gateway)
    with endpoints(settings) as store:
        entity = served_entity_id(store.get("chat").id, "eliza")
    where: dict[str, Any] = {
        "payload_table": "main.log.chat_payload",
        "usage_tracked": True,
        "served_entity_id": entity,
    }
    old, young = (replace(aged(plain(), days), **where) for days in (31, 29))
    refused = replace(old, interaction_id=new_id(), served_entity_id=None, usage_tracked=False)
    tabled(settings, old, young, refused)
    change(settings, "chat", ai_gateway={"inference_table_config": {**TABLE, "enabled": False}})
    if then == "moved":
        change(settings, "chat", ai_gateway={"inference_table_config": {**TABLE, "table_name_prefix": "other"}})
    if then == "deleted":
        delete(settings, "chat")

    document = pruned(settings)

    assert document["tables"] == {"main.log.chat_payload": 2, "system.serving.endpoint_usage": 1}
    for table in document["tables"]:
        assert rows(settings, table) == {young.interaction_id}


def test_a_table_that_two_have_written_keeps_what_the_other_keeps(settings: Settings) -> None:
    for name, days in (("chat", 30), ("other", 90)):
        block = {"retention_days": days}
        endpoint(settings, name, llmops=block, ai_gateway={"inference_table_config": TABLE})
    with endpoints(settings) as store:
        ids = {name: served_entity_id(store.get(name).id, "eliza") for name in ("chat", "other")}
    where: dict[str, Any] = {"payload_table": "main.log.chat_payload"}
    logged = {
        (name, days): replace(aged(plain(name), days), served_entity_id=ids.get(name), **where)
        for name, days in (("chat", 31), ("other", 31), ("other", 91), ("none", 31), ("none", 91))
    }
    tabled(settings, *logged.values())
    change(settings, "other", ai_gateway={})

    pruned(settings)

    kept = {logged[one].interaction_id for one in (("other", 31), ("none", 31))}
    assert rows(settings, "main.log.chat_payload") == kept
