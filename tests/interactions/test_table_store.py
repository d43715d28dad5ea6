"""Tables in an object store: the same, as nothing of it is done with files."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from llmops.errors import Unavailable
from llmops.interactions.delta import Numbered, Table
from llmops.interactions.payload_table import PAYLOAD as DESIGN
from llmops.interactions.payload_table import payload_row
from llmops.interactions.table_deletion import delete_user, tables
from llmops.interactions.table_listing import summary
from llmops.interactions.table_place import TableName
from llmops.interactions.table_upkeep import tidy
from llmops.settings import Settings
from tests.interactions.records import plain
from tests.interactions.tables import PAYLOAD, USAGE, delivered, ids, recorded
from tests.object_store import ObjectStore, object_store


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    with object_store() as running:
        for name, value in running.environment.items():
            monkeypatch.setenv(name, value)
        yield running


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path, tables_uri="s3://bucket/llm/tables/", table_vacuum_hours=0)


def test_tables_live_in_a_bucket_from_first_row_to_last(settings: Settings, store: ObjectStore) -> None:
    assert tables(settings) == []
    batch = recorded(4, usage=True)
    large = recorded(request="\u00e9" * 8_000_000, user="grace@example.com")
    delivered(settings, batch)
    delivered(settings, [*batch, *large], tries=2, spool="b")

    assert tables(settings) == [PAYLOAD, USAGE]
    assert ids(settings) == sorted(one.interaction_id for one in [*batch, *large])
    assert ids(settings, USAGE) == sorted(one.interaction_id for one in batch)
    assert tidy(settings, TableName.parse(PAYLOAD)).joined == 2
    assert delete_user(settings, "grace@example.com") == {PAYLOAD: 1}
    assert summary(settings, TableName.parse(PAYLOAD)).rows == 4
    assert len([key for key in store.names() if "chat_payload/request_date" in key]) == 1
    assert all(key.startswith("llm/tables/") for key in store.names())


def test_writers_of_one_bucket_need_no_lock_table(settings: Settings, store: ObjectStore) -> None:
    """S3 refuses the second put of a log entry, and its writer goes on with the next."""
    uri = TableName.parse(PAYLOAD).uri(settings)
    written = [[Numbered(number, payload_row(plain())) for number in range(10)] for _ in range(3)]
    opened = [Table(uri, DESIGN) for _ in written]

    def write(number: int) -> None:
        for row in written[number]:
            opened[number].append(f"source-{number}", [row])

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(write, range(3)))

    assert store.refused() > 0
    assert ids(settings) == sorted(one.row["databricks_request_id"] for rows in written for one in rows)


def test_a_store_that_denies_says_what_to_check(settings: Settings, store: ObjectStore) -> None:
    store.deny()

    with pytest.raises(Unavailable) as raised:
        delivered(settings, recorded())

    assert raised.value.message == (
        "table s3://bucket/llm/tables/main/default/chat_payload: access is denied;"
        " check the credentials in the environment of the server and the rights on the place"
    )


def test_a_store_that_is_away_says_so_and_takes_all_when_it_is_back(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = recorded(2)
    with object_store() as gone:
        pass
    for name, value in gone.environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(Unavailable, match="the store cannot be reached; check the network"):
        delivered(settings, batch)
    with object_store() as back:
        monkeypatch.setenv("AWS_ENDPOINT_URL", back.environment["AWS_ENDPOINT_URL"])
        delivered(settings, batch, tries=2)

        assert ids(settings) == sorted(one.interaction_id for one in batch)
