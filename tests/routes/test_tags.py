"""Tags that many change at once."""

from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.conftest import NewServer
from tests.server import demo

ENDPOINTS = "/api/2.0/serving-endpoints"


@pytest.mark.parametrize("store", ["sqlite", "postgres"])
def test_of_many_changes_of_tags_at_once_none_is_lost(new_server: NewServer, store: str) -> None:
    """Also between workers, which know nothing of each other but the store."""
    server = new_server(store=store, options=("--no-mlflow-ui", "--workers", "2"))
    old = [{"key": f"old-{number}"} for number in range(40)]
    server.post(ENDPOINTS, {**demo("tagged"), "tags": [*old, {"key": "kept"}]}).raise_for_status()

    def change(number: int) -> int:
        body = {"add_tags": [{"key": f"new-{number}", "value": "x"}], "delete_tags": [f"old-{number}"]}
        return httpx.patch(f"{server.url}{ENDPOINTS}/tagged/tags", json=body, timeout=60).status_code

    with ThreadPoolExecutor(20) as people:
        statuses = set(people.map(change, range(40)))

    assert statuses == {200}
    assert {tag["key"] for tag in server.endpoint("tagged")["tags"]} == {
        "kept",
        *(f"new-{number}" for number in range(40)),
    }
