"""What a record becomes in the tables, through the sink."""

import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import write_deltalake

from llmops.errors import Unavailable
from llmops.interactions.sink import Delivered, Refused
from llmops.interactions.table_sink import TableSink
from llmops.settings import Settings
from tests.interactions import records
from tests.interactions.tables import (
    PAYLOAD,
    USAGE,
    asked,
    delivered,
    delta,
    ids,
    leased,
    parquet_files,
    recorded,
    rows,
)

_PAYLOAD_COLUMNS = [
    ("databricks_request_id", "VARCHAR"),
    ("client_request_id", "VARCHAR"),
    ("request_time", "TIMESTAMP WITH TIME ZONE"),
    ("status_code", "INTEGER"),
    ("sampling_fraction", "DOUBLE"),
    ("execution_duration_ms", "BIGINT"),
    ("request", "VARCHAR"),
    ("response", "VARCHAR"),
    ("logging_error_codes", "VARCHAR[]"),
    ("served_entity_id", "VARCHAR"),
    ("requester", "VARCHAR"),
    ("request_date", "DATE"),
]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path)


def test_the_payload_table_has_the_columns_of_databricks(settings: Settings) -> None:
    delivered(settings, recorded())

    described = asked(settings, "DESCRIBE t")

    assert sorted((row[0], row[1]) for row in described) == sorted(_PAYLOAD_COLUMNS)
    assert delta(settings).metadata().partition_columns == ["request_date"]


def test_a_row_of_the_payload_table_tells_the_whole_interaction(settings: Settings) -> None:
    (one,) = recorded(served_entity_id="a" * 32, sampling_fraction=0.5, received_ns=1_700_000_000_123_456_789)
    delivered(settings, [one])

    assert rows(settings) == [
        {
            "databricks_request_id": one.interaction_id,
            "request_date": datetime(2023, 11, 14, tzinfo=UTC).date(),
            "client_request_id": one.client_request_id,
            "request_time": datetime(2023, 11, 14, 22, 13, 20, 123456, UTC),
            "status_code": 200,
            "sampling_fraction": 0.5,
            "execution_duration_ms": 20,
            "request": one.request,
            "response": one.response,
            "logging_error_codes": [],
            "served_entity_id": "a" * 32,
            "requester": "ada@example.com",
        }
    ]


def test_a_row_of_the_usage_table_tells_tokens_and_characters(settings: Settings) -> None:
    (one,) = recorded(table=None, usage=True, served_entity_id="a" * 32)
    delivered(settings, [one])

    (row,) = rows(settings, USAGE)
    workspace = row.pop("workspace_id")
    assert workspace == (settings.data_dir / "workspace_id").read_text()
    assert row == {
        "account_id": None,
        "client_request_id": one.client_request_id,
        "databricks_request_id": one.interaction_id,
        "requester": "ada@example.com",
        "status_code": 200,
        "request_time": datetime.fromtimestamp(one.received_ns // 1000 / 1e6, UTC),
        "input_token_count": 12,
        "output_token_count": 6,
        "input_character_count": len("What is a spool?"),
        "output_character_count": len("A reel for thread."),
        "usage_context": [("project", "loom")],
        "request_streaming": False,
        "served_entity_id": "a" * 32,
    }
    assert asked(settings, "SELECT usage_context['project'] FROM t", USAGE) == [("loom",)]


def test_every_kind_of_interaction_becomes_a_row(settings: Settings) -> None:
    kinds = [replace(one, payload_table=PAYLOAD, usage_tracked=True) for one in records.one_of_each()]

    outcomes = delivered(settings, kinds)

    assert outcomes == [Delivered()] * len(kinds)
    assert ids(settings) == ids(settings, USAGE) == sorted(one.interaction_id for one in kinds)


def test_metadata_alone_leaves_the_payload_empty(settings: Settings) -> None:
    delivered(settings, recorded(usage=True, content="metadata", request="", response=None))

    (row,), (usage,) = rows(settings), rows(settings, USAGE)
    assert (row["request"], row["response"], usage["input_character_count"]) == (None, None, None)


def test_records_that_ask_for_no_table_cost_no_import() -> None:
    """And neither does a server whose endpoints have none: delta-rs is 16 MB, and 60 more at work."""
    code = (
        "import sys, tempfile, pathlib\n"
        "from llmops.interactions.spool import Leased\n"
        "from llmops.interactions.table_sink import TableSink\n"
        "from llmops.settings import Settings\n"
        "from tests.interactions.records import plain\n"
        "sink = TableSink(Settings(data_dir=pathlib.Path(tempfile.mkdtemp())))\n"
        "sink.open()\n"
        "print(sink.deliver([Leased(plain(), 1, 1, pathlib.Path('x'))]), {'deltalake', 'pyarrow'} & set(sys.modules))\n"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)

    assert done.stdout == "[Delivered()] set()\n"


@pytest.mark.parametrize("name", ["../../etc.x.y_payload", "a.b", "a.b.c/d_payload", "a..b_payload", "a.b.c\n"])
def test_a_name_that_could_leave_the_root_is_refused(settings: Settings, name: str) -> None:
    good = recorded()

    outcomes = delivered(settings, [*recorded(table=name, usage=True), *good])

    assert [type(one) for one in outcomes] == [Refused, Delivered]
    assert ids(settings) == [good[0].interaction_id]
    assert not (Path(settings.table_root) / "system").exists()


def test_a_table_of_somebody_else_refuses_its_records_and_stays_as_it_is(settings: Settings) -> None:
    foreign = Path(settings.table_root) / "main" / "default" / "foreign_payload"
    write_deltalake(str(foreign), pa.table({"databricks_request_id": [1], "price": [2.5]}))
    good = recorded()

    refused, taken = delivered(settings, [*recorded(table="main.default.foreign_payload"), *good])

    assert isinstance(refused, Refused)
    assert "is not one of ours" in refused.reason
    assert str(foreign) in refused.reason
    assert taken == Delivered()
    assert rows(settings, "main.default.foreign_payload") == [{"databricks_request_id": 1, "price": 2.5}]


def test_a_root_that_cannot_be_made_is_away_and_takes_all_when_it_is_back(settings: Settings) -> None:
    root = Path(settings.table_root)
    root.write_text("a file where the directory should be")
    batch = recorded(3, usage=True)
    sink = TableSink(settings)
    with pytest.raises(Unavailable) as raised:
        sink.deliver(leased(batch))
    root.unlink()

    outcomes = sink.deliver(leased(batch, tries=2))
    sink.close()

    assert "\n" not in raised.value.message
    assert str(root) in raised.value.message
    assert outcomes == [Delivered()] * 3
    assert ids(settings) == ids(settings, USAGE) == sorted(one.interaction_id for one in batch)


def test_a_batch_delivered_again_is_there_once(settings: Settings) -> None:
    batch = recorded(5, usage=True)
    delivered(settings, batch)
    delivered(settings, batch, tries=2)
    # A spool that was salvaged, and a dead letter that is tried again, bring it under another number.
    delivered(settings, batch[:2], tries=2, first=900)
    delivered(settings, batch[2:], tries=2, spool="spool-salvaged")

    assert ids(settings) == ids(settings, USAGE) == sorted(one.interaction_id for one in batch)


def test_a_record_that_comes_late_is_not_lost(settings: Settings) -> None:
    """One that failed alone is delivered after those that were written after it."""
    late, early = recorded(), recorded()
    delivered(settings, early, first=7)
    delivered(settings, late, first=3)

    assert ids(settings) == sorted([late[0].interaction_id, early[0].interaction_id])


def test_values_a_caller_made_up_do_not_stop_the_others(settings: Settings) -> None:
    odd = recorded(usage=True, user=7, usage_context={"team": 3, "none": None}, client_request_id=["x"])
    wrong = recorded(usage=True, status="teapot")

    outcomes = delivered(settings, [*odd, *wrong])

    assert outcomes == [Delivered(), Refused("the record cannot be a row: ValueError")]
    assert rows(settings)[0]["requester"] == "7"
    assert rows(settings, USAGE)[0]["usage_context"] == [("team", "3"), ("none", None)]


def test_a_payload_of_many_megabytes_is_whole(settings: Settings) -> None:
    text = "\u00e9\u4e2d" * 3_000_000

    delivered(settings, recorded(request=text, response=text))

    assert asked(settings, "SELECT length(request), response = request FROM t") == [(6_000_000, True)]


def test_the_log_holds_nothing_of_payloads_and_people(settings: Settings) -> None:
    """It outlives the files it describes, so what is forgotten must never have been in it."""
    delivered(settings, recorded(3, usage=True))

    logs = [path.read_text() for path in Path(settings.table_root).rglob("_delta_log/*.json")]
    assert len(logs) >= 4
    assert not [log for log in logs if "ada@" in log or "spool?" in log or "req-" in log]


def test_rows_lie_by_the_utc_date_they_were_received(settings: Settings) -> None:
    day_ns = 86_400_000_000_000
    delivered(settings, [*recorded(2, received_ns=10 * day_ns - 1), *recorded(received_ns=10 * day_ns)])

    assert sorted(path.parent.name for path in parquet_files(settings)) == [
        "request_date=1970-01-10",
        "request_date=1970-01-11",
    ]
    assert asked(settings, "SELECT count(*) FROM t WHERE request_date = DATE '1970-01-10'") == [(2,)]


def test_old_readers_can_read_the_tables(settings: Settings) -> None:
    delivered(settings, recorded(usage=True))

    for name in (PAYLOAD, USAGE):
        protocol = delta(settings, name).protocol()
        assert (protocol.min_reader_version, protocol.min_writer_version) == (1, 2)


def test_pandas_reads_a_table(settings: Settings) -> None:
    (one,) = recorded()
    delivered(settings, [one])

    frame = delta(settings).to_pandas()

    assert list(frame["databricks_request_id"]) == [one.interaction_id]
