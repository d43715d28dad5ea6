"""The configs an endpoint has had, in the store's file alone and with a PostgreSQL database behind it."""

import sqlite3
from pathlib import Path

import pytest

from llmops.endpoints.files import EndpointFile
from llmops.endpoints.spec import EndpointSpec
from llmops.endpoints.store import Store
from llmops.errors import NotFound
from tests.endpoints.test_store import Opener, file, opened, url
from tests.postgres import run
from tests.server import demo

__all__ = ["opened", "url"]  # The store's own fixtures.


def _spec(parallel: int, **more: str) -> EndpointSpec:
    document = {**demo("e"), **more}
    document["config"]["served_entities"][0]["llmops"]["parallel"] = parallel
    return EndpointSpec.model_validate(document)


def _parallels(store: Store, name: str = "e") -> list[tuple[int, int]]:
    found = store.versions(name)
    return [(one.number, one.config["served_entities"][0]["llmops"].get("parallel", 1)) for one in found]


def test_every_config_is_kept_and_the_newest_comes_first(opened: Opener) -> None:
    store = opened()
    endpoint = store.create(_spec(1), None)
    for parallel in (2, 3):
        endpoint = store.update(endpoint, _spec(parallel))

    assert _parallels(store) == [(3, 3), (2, 2), (1, 1)]
    assert store.versions("e")[0].config == endpoint.document["config"]
    assert store.versions("e")[0].changed_ms == endpoint.updated_ms


def test_a_change_of_anything_else_is_no_version(opened: Opener) -> None:
    store = opened()
    endpoint = store.create(_spec(1), None)

    store.update(endpoint, _spec(1, description="new"))

    assert _parallels(store) == [(1, 1)]


def test_the_history_goes_with_its_endpoint(opened: Opener) -> None:
    store = opened()
    store.update(store.create(_spec(1), None), _spec(2))
    store.delete("e")

    with pytest.raises(NotFound):
        store.versions("e")
    store.create(_spec(5), None)
    assert _parallels(store) == [(1, 5)]


def test_a_history_outlives_the_server(opened: Opener) -> None:
    store = opened()
    store.update(store.create(_spec(1), None), _spec(2))
    store.begin()

    assert _parallels(opened()) == [(2, 2), (1, 1)]


def test_the_versions_of_a_file_are_kept_too_and_a_wrong_file_is_none(opened: Opener, tmp_path: Path) -> None:
    store = opened()
    store.sync([file(tmp_path, "e")])
    store.sync([EndpointFile(tmp_path / "e.yaml", "e", None, ("wrong",))])
    store.sync([file(tmp_path, "e")])

    assert [one.number for one in store.versions("e")] == [3, 1]


def test_a_file_of_an_older_release_gets_the_configs_it_has(tmp_path: Path) -> None:
    path = tmp_path / "llmops.db"
    store = Store(path)
    store.update(store.create(_spec(1), None), _spec(2))
    store.close()
    with sqlite3.connect(path) as database:
        database.executescript(
            "DROP TABLE versions; DROP TRIGGER keep_first; DROP TRIGGER keep_next; DROP TRIGGER forget;"
        )
    database.close()

    store = Store(path)

    assert _parallels(store) == [(2, 2)]
    store.close()


def test_a_database_of_an_older_release_gets_the_configs_it_has(tmp_path: Path, postgres: str) -> None:
    store = Store(tmp_path / "llmops.db", postgres)
    store.begin()
    store.update(store.create(_spec(1), None), _spec(2))
    for statement in (
        "DROP TABLE llmops.versions",
        "DROP FUNCTION llmops.keep_version CASCADE",
        "DROP FUNCTION llmops.forget_versions CASCADE",
        "UPDATE llmops.state SET schema_version = 1",
    ):
        run(postgres, statement)
    store.close()

    store = Store(tmp_path / "llmops.db", postgres)
    store.begin()

    assert _parallels(store) == [(2, 2)]
    store.close()


def test_a_server_shows_the_configs_that_another_one_made(tmp_path: Path, postgres: str) -> None:
    one, other = Store(tmp_path / "one.db", postgres), Store(tmp_path / "other.db", postgres)
    one.begin()
    other.begin()
    one.update(one.create(_spec(1), None), _spec(2))

    assert _parallels(other) == [(2, 2), (1, 1)]
    one.close()
    other.close()
