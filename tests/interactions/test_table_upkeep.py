"""Small files become few, replaced ones go, and nobody who writes or reads is disturbed."""

import os
import subprocess
import sys
import time
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from deltalake import DeltaTable

from llmops.errors import Unavailable
from llmops.interactions.record import Interaction
from llmops.interactions.table_place import TableName
from llmops.interactions.table_sink import TableSink
from llmops.interactions.table_upkeep import compact, opened, tidy
from llmops.settings import Settings
from tests.interactions.tables import PAYLOAD, delivered, delta, ids, leased, parquet_files, recorded

_NAME = TableName.parse(PAYLOAD)
_DAY_NS = 86_400_000_000_000


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path, table_compact_every=5)


def _keys(batches: list[list[Interaction]]) -> list[str]:
    return sorted(one.interaction_id for one in chain(*batches))


def _commits(settings: Settings, count: int, **more: Any) -> list[list[Interaction]]:
    """So many commits of two rows each, without a sink that would tidy."""
    batches = [recorded(2, **more) for _ in range(count)]
    for number, batch in enumerate(batches):
        delivered(settings, batch, spool=f"spool-{number}-{more}")
    return batches


def test_the_sink_has_its_tables_tidied_after_so_many_commits(settings: Settings) -> None:
    batches = [recorded(3) for _ in range(6)]
    sink = TableSink(settings)
    for first, batch in enumerate(batches):
        sink.deliver(leased(batch, first=10 * first + 1))
        if first == 4:
            process = sink._opened._upkeep._child  # type: ignore[union-attr]
            assert process.wait(100) == 0
    sink.close()

    assert len(delta(settings).file_uris()) == 2
    assert ids(settings) == _keys(batches)


def test_files_are_joined_within_their_date_only(settings: Settings) -> None:
    old = _commits(settings, 3, received_ns=10 * _DAY_NS)
    new = _commits(settings, 4, received_ns=11 * _DAY_NS)

    assert compact(opened(settings, _NAME)) == 7
    assert sorted(Path(uri).parent.name for uri in delta(settings).file_uris()) == [
        "request_date=1970-01-11",
        "request_date=1970-01-12",
    ]
    assert compact(opened(settings, _NAME)) == 0
    assert ids(settings) == _keys([*old, *new])


def test_joining_keeps_what_the_log_says_of_a_file(settings: Settings) -> None:
    """Also that it says nothing of payloads and people."""
    batches = _commits(settings, 3)
    compact(opened(settings, _NAME))

    (file,) = opened(settings, _NAME).files()
    assert file["num_records"] == 6
    assert [file["min.databricks_request_id"], file["max.databricks_request_id"]] == [
        _keys(batches)[0],
        _keys(batches)[-1],
    ]
    assert {key.split(".")[1] for key in file if "." in key} == {
        "databricks_request_id",
        "request_time",
        "request_date",
    }


def test_replaced_files_and_those_nobody_knows_are_deleted_when_they_are_old(settings: Settings) -> None:
    batches = _commits(settings, 3)
    lost = parquet_files(settings)[0].with_name("part-00000-of-a-killed-writer-c000.zstd.parquet")
    lost.write_bytes(parquet_files(settings)[0].read_bytes())
    table = opened(settings, _NAME)
    compact(table)

    assert table.vacuum(168, lost=True) == 0
    assert table.vacuum(0, lost=False) == 3
    assert lost.exists()  # It may be a writer's that has not committed yet.
    an_hour_ago = time.time() - 3700
    os.utime(lost, (an_hour_ago, an_hour_ago))
    assert table.vacuum(0, lost=True) == 1
    assert len(parquet_files(settings)) == 1
    assert ids(settings) == _keys(batches)


def test_the_log_is_summed_up_and_still_knows_what_was_delivered(settings: Settings) -> None:
    batches = _commits(settings, 4)
    table = opened(settings, _NAME)
    compact(table)
    for path in (Path(settings.table_root) / PAYLOAD.replace(".", "/") / "_delta_log").iterdir():
        long_ago = time.time() - 48 * 3600
        os.utime(path, (long_ago, long_ago))
    table.tidy_log()

    logs = list((Path(settings.table_root) / PAYLOAD.replace(".", "/") / "_delta_log").glob("*.json"))
    assert len(logs) <= 2
    for number, batch in enumerate(batches):
        delivered(settings, batch, spool=f"spool-{number}-{{}}", tries=2)
    assert ids(settings) == _keys(batches)


def _upkeep(settings: Settings, hours: int) -> subprocess.Popen[str]:
    """The process, as soon as all is imported and it begins."""
    command = [sys.executable, "-m", "llmops.interactions.table_upkeep", "--vacuum-hours", str(hours)]
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [*command, "--root", settings.table_root, PAYLOAD], stdin=pipe, stderr=pipe, stdout=pipe, text=True
    )
    assert process.stderr
    assert "event=tidying_tables" in process.stderr.readline()
    return process


def test_an_upkeep_that_is_killed_leaves_every_row_once(settings: Settings) -> None:
    batches = _commits(settings, 12)
    for delay_s in (0.0, 0.02, 0.05, 0.1):
        with _upkeep(settings, 0) as upkeep:
            try:
                upkeep.wait(delay_s)
            except subprocess.TimeoutExpired:
                upkeep.kill()
            upkeep.communicate()
        assert ids(settings) == _keys(batches)
        batches += _commits(settings, 2, status=int(200 + delay_s * 100))

    tidy(settings, _NAME)
    assert ids(settings) == _keys(batches)
    assert len(DeltaTable(opened(settings, _NAME).uri).file_uris()) == 1


def test_two_that_tidy_at_once_leave_every_row_once(settings: Settings) -> None:
    batches = _commits(settings, 6)
    upkeeps = [_upkeep(settings, 168) for _ in range(2)]
    codes = [upkeep.wait(60) for upkeep in upkeeps]
    for upkeep in upkeeps:
        upkeep.communicate()

    assert 0 in codes
    assert ids(settings) == _keys(batches)


def test_of_two_that_join_the_same_files_one_is_refused(settings: Settings) -> None:
    """delta-rs alone would let both commit, and every row would be there twice."""
    batches = _commits(settings, 3)
    one, other = (opened(settings, _NAME) for _ in range(2))
    files = other.files()
    compact(one)

    with pytest.raises(Unavailable, match="somebody else is changing it"):
        other.rewrite(files)
    assert ids(settings) == _keys(batches)
