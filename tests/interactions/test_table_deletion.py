"""Rows that have to go are gone from every file, and nobody else's are."""

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import write_deltalake

from llmops.endpoints.detail import served_entity_id
from llmops.endpoints.spec import EndpointSpec
from llmops.endpoints.store import Store
from llmops.errors import InvalidParameter
from llmops.interactions.delta import Numbered, Table
from llmops.interactions.payload_table import PAYLOAD as DESIGN
from llmops.interactions.payload_table import payload_row
from llmops.interactions.record import Interaction
from llmops.interactions.table_deletion import count_user, delete_before, delete_user, tables
from llmops.interactions.table_place import TableName
from llmops.interactions.table_upkeep import compact, opened
from llmops.settings import Settings
from tests.interactions.records import plain
from tests.interactions.tables import PAYLOAD, USAGE, delivered, delta, ids, parquet_files, recorded

_DAY_MS = 86_400_000
_NOON_MS = 100 * _DAY_MS + _DAY_MS // 2


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path)


def _keys(*interactions: Interaction) -> list[str]:
    return sorted(one.interaction_id for one in interactions)


def _at(*received_ms: int, **more: Any) -> list[Interaction]:
    return [recorded(received_ns=when * 1_000_000, usage=True, **more)[0] for when in received_ms]


def _holding(settings: Settings, text: bytes) -> list[Path]:
    """Every file under the root with these bytes; texts this short are stored as they are."""
    files = (path for path in Path(settings.table_root).rglob("*") if path.is_file())
    return [path for path in files if text in path.read_bytes()]


def test_the_rows_of_a_person_are_gone_from_every_table_and_file(settings: Settings) -> None:
    grace = recorded(3, usage=True, user="grace@example.com", request="a secret of grace")
    ada = recorded(2, usage=True)
    nobody = recorded(usage=True, user=None)
    delivered(settings, [*grace[:2], *ada, *nobody])
    delivered(settings, grace[2:], spool="spool-b")
    compact(opened(settings, TableName.parse(PAYLOAD)))
    delivered(settings, [replace(ada[0], interaction_id="f" * 32, payload_table="main.other.b_payload")], spool="c")

    assert _holding(settings, b"grace@")
    counted = count_user(settings, "grace@example.com")
    deleted = delete_user(settings, "grace@example.com")

    assert counted == deleted == {PAYLOAD: 3, USAGE: 3}
    assert ids(settings) == _keys(*ada, *nobody)
    assert len(ids(settings, USAGE)) == 4
    assert len(ids(settings, "main.other.b_payload")) == 1
    assert not _holding(settings, b"grace")
    assert delete_user(settings, "grace@example.com") == {}


def test_a_name_is_matched_exactly(settings: Settings) -> None:
    delivered(settings, recorded(user="o'neil"))
    delivered(settings, recorded(user="%"), spool="b")

    assert delete_user(settings, "O'NEIL") == {}
    assert delete_user(settings, "o'neil") == {PAYLOAD: 1}
    assert delete_user(settings, "%") == {PAYLOAD: 1}


def test_rows_are_deleted_up_to_the_moment(settings: Settings) -> None:
    long_ago = _at(10 * _DAY_MS, 50 * _DAY_MS)
    morning = _at(_NOON_MS - 3, _NOON_MS - 1)
    later = _at(_NOON_MS, _NOON_MS + 1, _NOON_MS + _DAY_MS)
    delivered(settings, [*long_ago, *morning, *later])

    assert delete_before(settings, PAYLOAD, _NOON_MS) == 4
    assert delete_before(settings, USAGE, _NOON_MS) == 4
    assert ids(settings) == ids(settings, USAGE) == _keys(*later)
    assert sorted(path.parent.name for path in parquet_files(settings)) == [
        "request_date=1970-04-11",
        "request_date=1970-04-12",
    ]
    assert delete_before(settings, PAYLOAD, _NOON_MS) == 0


def test_of_a_shared_table_only_the_rows_of_one_endpoint_are_deleted(settings: Settings) -> None:
    served = {"name": "small", "entity_name": "llmops.small", "llmops": {"engine": "demo"}}
    gateway = {"usage_tracking_config": {"enabled": True}}
    spec = EndpointSpec.model_validate({"name": "chat", "config": {"served_entities": [served]}, "ai_gateway": gateway})
    store = Store(settings.store_path)
    endpoint = store.create(spec, None)
    store.close()
    mine = _at(1, 2, served_entity_id=served_entity_id(endpoint.id, "small"))
    others = [*_at(3, served_entity_id="f" * 32), *_at(4, served_entity_id=None)]
    delivered(settings, [*mine, *others])

    assert delete_before(settings, USAGE, _NOON_MS, endpoint="nobody") == 0
    assert delete_before(settings, USAGE, _NOON_MS, endpoint="chat") == 2
    assert ids(settings, USAGE) == _keys(*others)


def test_a_table_that_is_not_there_has_nothing_to_delete(settings: Settings) -> None:
    assert tables(settings) == []
    assert delete_user(settings, "ada@example.com") == {}
    assert delete_before(settings, PAYLOAD, _NOON_MS) == 0
    assert not Path(settings.table_root).exists()
    with pytest.raises(InvalidParameter):
        delete_before(settings, "../../x", _NOON_MS)


def test_tables_of_others_under_the_root_are_left_alone(settings: Settings) -> None:
    write_deltalake(f"{settings.table_root}/main/default/sales", pa.table({"requester": ["ada@example.com"]}))
    delivered(settings, recorded())

    assert tables(settings) == [PAYLOAD, "main.default.sales"]
    assert delete_user(settings, "ada@example.com") == {PAYLOAD: 1}
    assert delta(settings, "main.default.sales").to_pyarrow_dataset().count_rows() == 1


def test_deleting_while_a_shipper_appends_disturbs_neither(settings: Settings) -> None:
    """Each commit of one makes the other decide anew; none is lost, and none is there twice."""
    uri = TableName.parse(PAYLOAD).uri(settings)
    table = Table(uri, DESIGN)
    written: list[Interaction] = []
    done = threading.Event()

    def append() -> None:
        for number in range(40):
            batch = [plain(), replace(plain(), user="grace@example.com")]
            table.append("source", [Numbered(2 * number + n, payload_row(one)) for n, one in enumerate(batch)])
            written.extend(batch)
        done.set()

    shipper = threading.Thread(target=append)
    shipper.start()
    deleted = 0
    while not done.is_set():
        deleted += delete_user(settings, "grace@example.com").get(PAYLOAD, 0)
    shipper.join()
    deleted += delete_user(settings, "grace@example.com").get(PAYLOAD, 0)

    assert deleted == 40
    assert ids(settings) == _keys(*(one for one in written if one.user == "ada@example.com"))
