"""Exactly once, whoever is killed and whoever else writes."""

import random
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import chain
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from deltalake import DeltaTable, Schema, write_deltalake

from llmops.errors import Conflict, Unavailable
from llmops.interactions.delta import Numbered, Table
from llmops.interactions.delta_files import Row
from llmops.interactions.payload_table import PAYLOAD, payload_row
from llmops.interactions.record import Interaction
from llmops.interactions.spool import Spool, depth
from llmops.settings import Settings
from tests.interactions import tables
from tests.interactions.records import plain
from tests.interactions.tables import ids, recorded

_ROUNDS = 8


def _numbered(count: int, first: int = 1) -> list[Numbered]:
    return [Numbered(number, payload_row(plain())) for number in range(first, first + count)]


def _keys(uri: Path) -> list[str]:
    column = DeltaTable(str(uri)).to_pyarrow_dataset().to_table(["databricks_request_id"]).column(0)
    return sorted(column.to_pylist())


def _of(rows: list[Numbered]) -> list[str]:
    return sorted(one.row["databricks_request_id"] for one in rows)


def _shipper(settings: Settings) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.interactions.table_shipper", str(settings.data_dir), settings.table_root]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)


def _spooled(settings: Settings, count: int) -> list[str]:
    spool = Spool[Interaction](settings.spool_dir / "worker-0.db")
    written = recorded(count, usage=True)
    for one in written:
        spool.append(one)
    spool.close()
    return sorted(one.interaction_id for one in written)


def test_nothing_is_lost_or_there_twice_when_the_shipper_is_killed(tmp_path: Path) -> None:
    """Killed at random moments, with files written and not committed, and committed and not acked."""
    settings = Settings(data_dir=tmp_path)
    chance = random.Random(7)
    written = _spooled(settings, 900)
    killed = 0
    for _ in range(_ROUNDS):
        with _shipper(settings) as shipper:
            assert shipper.stdout
            assert shipper.stdout.readline() == "ready\n"
            try:
                shipper.wait(chance.uniform(0.0, 0.3))
            except subprocess.TimeoutExpired:
                shipper.kill()
                killed += 1
    with _shipper(settings) as last:
        assert last.stdout
        assert last.stdout.read() == "ready\ndone\n"

    assert killed >= _ROUNDS // 2
    assert depth(settings.spool_dir) == 0
    assert ids(settings) == written
    assert ids(settings, tables.USAGE) == written


def test_two_servers_write_one_table(tmp_path: Path) -> None:
    root = str(tmp_path / "tables")
    servers = [Settings(data_dir=tmp_path / name, tables_uri=root) for name in ("a", "b")]
    written = [_spooled(settings, 400) for settings in servers]
    shippers = [_shipper(settings) for settings in servers]
    said = [shipper.communicate(timeout=60)[0] for shipper in shippers]

    assert said == ["ready\ndone\n"] * 2
    assert ids(servers[0]) == sorted(chain(*written))
    assert ids(servers[0], tables.USAGE) == sorted(chain(*written))


def test_two_who_make_a_table_at_once_both_have_it(tmp_path: Path) -> None:
    uri = tmp_path / "table"
    with ThreadPoolExecutor(4) as pool:
        opened = list(pool.map(lambda _: Table(str(uri), PAYLOAD), range(4)))
    written = [_numbered(3) for _ in opened]
    for number, (table, rows) in enumerate(zip(opened, written, strict=True)):
        table.append(f"source-{number}", rows)

    assert _keys(uri) == _of([*chain(*written)])


def test_a_second_writer_of_one_source_writes_nothing_twice(tmp_path: Path) -> None:
    """What the one writer per source promises is checked at the commit, should the promise be broken."""
    first, second = (Table(str(tmp_path / "table"), PAYLOAD) for _ in range(2))
    rows = _numbered(5)
    with ThreadPoolExecutor(2) as pool:
        added = sum(pool.map(lambda table: table.append("source", rows), (first, second)))

    assert added == 5
    assert _keys(tmp_path / "table") == _of(rows)


def test_who_decided_on_an_old_state_has_to_decide_anew(tmp_path: Path) -> None:
    table, other = (Table(str(tmp_path / "table"), PAYLOAD) for _ in range(2))
    held = table.last("turn")
    rows: list[Row] = [one.row for one in _numbered(1)]

    assert other.advance("turn", held, rows)
    assert not table.advance("turn", held, rows)
    assert table.advance("turn", held + 1, rows)


def test_a_table_that_was_removed_is_made_again(tmp_path: Path) -> None:
    table = Table(str(tmp_path / "table"), PAYLOAD)
    table.append("source", _numbered(2))
    shutil.rmtree(tmp_path / "table")
    rows = _numbered(2, first=3)

    assert table.append("source", rows) == 2
    assert _keys(tmp_path / "table") == _of(rows)


def test_a_table_of_an_older_release_gets_the_columns_it_lacks(tmp_path: Path) -> None:
    uri = tmp_path / "table"
    columns = [field for field in PAYLOAD.schema if field.name not in ("served_entity_id", "logging_error_codes")]
    older = replace(PAYLOAD, schema=pa.schema(columns))
    old, new = _numbered(2), _numbered(2, first=3)
    missing = ("served_entity_id", "logging_error_codes")
    bare = [Numbered(one.number, {k: v for k, v in one.row.items() if k not in missing}) for one in old]
    Table(str(uri), older).append("source", bare)
    still_open = Table(str(uri), older)

    Table(str(uri), PAYLOAD).append("source", new)

    assert _keys(uri) == _of([*old, *new])
    codes = DeltaTable(str(uri)).to_pyarrow_dataset().to_table(["logging_error_codes"]).column(0).to_pylist()
    assert sorted(codes, key=str) == [None, None, [], []]
    # A server of the older release goes on beside it.
    assert still_open.append("other", [Numbered(1, {**bare[0].row, "databricks_request_id": "f" * 32})]) == 1


def test_a_table_that_asks_for_more_is_left_alone(tmp_path: Path) -> None:
    uri = str(tmp_path / "table")
    configuration = {"delta.enableChangeDataFeed": "true"}
    DeltaTable.create(uri, Schema.from_arrow(PAYLOAD.schema), partition_by="request_date", configuration=configuration)

    with pytest.raises(Conflict, match="is not one of ours: it demands"):
        Table(uri, PAYLOAD)


def test_a_table_with_other_columns_is_left_alone(tmp_path: Path) -> None:
    uri = str(tmp_path / "table")
    write_deltalake(uri, pa.table({"name": ["x"]}))

    with pytest.raises(Conflict, match="column databricks_request_id is missing"):
        Table(uri, PAYLOAD)


def test_an_older_version_can_be_read_after_the_small_files_were_joined(tmp_path: Path) -> None:
    table = Table(str(tmp_path / "table"), PAYLOAD)
    rows = [_numbered(2, first=number) for number in (1, 3, 5)]
    for batch in rows:
        table.append("source", batch)
    before = DeltaTable(str(tmp_path / "table")).version()
    files = table.files()
    newest = _numbered(1, first=9)
    Table(str(tmp_path / "table"), PAYLOAD).append("other", newest)  # In between: it must not stop the joining.

    assert table.rewrite(files) == 0
    assert len(DeltaTable(str(tmp_path / "table")).file_uris()) == 2
    assert _keys(tmp_path / "table") == _of([*chain(*rows), *newest])
    old = DeltaTable(str(tmp_path / "table"), version=before)
    assert old.to_pyarrow_dataset().count_rows() == 6


def test_of_two_who_replace_a_file_one_is_told(tmp_path: Path) -> None:
    one, other = (Table(str(tmp_path / "table"), PAYLOAD) for _ in range(2))
    rows = _numbered(4)
    one.append("source", rows)
    other.refresh()
    one.rewrite(one.files())

    with pytest.raises(Unavailable, match="somebody else is changing it"):
        other.rewrite(other.files())
    assert _keys(tmp_path / "table") == _of(rows)
    assert len(list((tmp_path / "table").rglob("part-*.parquet"))) == 2


def test_an_append_while_rows_are_removed_is_repeated_and_complete(tmp_path: Path) -> None:
    """delta-rs refuses such an append, for a reason of its own; nobody notices."""
    one, other = (Table(str(tmp_path / "table"), PAYLOAD) for _ in range(2))
    rows = [_numbered(2), _numbered(2, first=3), _numbered(2, first=5)]
    one.append("source", rows[0])
    one.append("source", rows[1])
    doomed = one.files()[:1]
    gone = one.files()[0]["min.databricks_request_id"]

    assert other.rewrite(doomed, lambda piece: pc.not_equal(piece.column("databricks_request_id"), gone)) == 1
    assert one.append("source", rows[2]) == 2
    assert _keys(tmp_path / "table") == [key for key in _of([*chain(*rows)]) if key != gone]
