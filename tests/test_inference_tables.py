"""Inference tables from the front door: what is asked over HTTP is in Delta tables, and the tables join."""

import httpx
from deltalake import DeltaTable

from tests.conftest import NewServer
from tests.interactions.tables import ENTITIES, PAYLOAD, USAGE, asked, ids, rows
from tests.server import Server, demo

_GATEWAY = {
    "usage_tracking_config": {"enabled": True},
    "inference_table_config": {"enabled": True, "catalog_name": "main", "schema_name": "default"},
}
_QUESTION = {"messages": [{"role": "user", "content": "What is a spool?"}]}


def _there(server: Server, name: str, count: int) -> bool:
    folder = f"{server.settings.table_root}/{name.replace('.', '/')}"
    return DeltaTable.is_deltatable(folder) and DeltaTable(folder).count() >= count


def test_what_is_asked_over_http_is_in_tables_that_join(new_server: NewServer) -> None:
    server = new_server({**demo("chat"), "ai_gateway": _GATEWAY}, environment={"LLMOPS_TABLE_LINGER_S": "0.1"})
    url = f"{server.url}/serving-endpoints/chat/invocations"
    answers = [httpx.post(url, json={**_QUESTION, "stream": stream}) for stream in (False, True)]
    server.wait(lambda: _there(server, PAYLOAD, 2) and _there(server, USAGE, 2) and _there(server, ENTITIES, 1))

    asked_ids = sorted(answer.headers["x-request-id"] for answer in answers)
    assert ids(server.settings) == ids(server.settings, USAGE) == asked_ids
    (entity,) = rows(server.settings, ENTITIES)
    assert entity["endpoint_name"] == "chat"
    for row in rows(server.settings):
        assert row["served_entity_id"] == entity["served_entity_id"]
        assert "What is a spool?" in row["request"]
        assert row["execution_duration_ms"] is not None
    assert asked(server.settings, "SELECT sum(input_token_count) > 0 FROM t", USAGE) == [(True,)]
    with_delta = [one.cmdline() for one in server.processes("") if "deltalake" in str(one.memory_maps())]
    assert len(with_delta) == 1
    assert "llmops.interactions.shipper" in with_delta[0]
