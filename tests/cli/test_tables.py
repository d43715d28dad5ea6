"""`llmops tables` in a script."""

import json
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import write_deltalake

from llmops.settings import Settings
from tests.cli.shell import llmops
from tests.interactions.tables import PAYLOAD, USAGE, delivered, ids, parquet_files, recorded


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path)


def _tables(settings: Settings, *args: str) -> tuple[int, str, str]:
    done = llmops("http://127.0.0.1:9", "tables", *args, "--data-dir", str(settings.data_dir))
    return done.returncode, done.stdout, done.stderr


def test_list_shows_rows_files_and_place(settings: Settings) -> None:
    delivered(settings, recorded(3, usage=True))
    delivered(settings, recorded(2), spool="b")
    write_deltalake(f"{settings.table_root}/main/default/sales", pa.table({"x": [1]}))

    code, out, err = _tables(settings, "list")
    _, as_json, _ = _tables(settings, "list", "--json")

    assert (code, err) == (0, "")
    lines = [line.split() for line in out.splitlines()]
    assert [line[0] for line in lines] == ["TABLE", PAYLOAD, "main.default.sales", USAGE]
    assert lines[1][1:3] == ["5", "2"]
    assert lines[1][4] == f"{settings.table_root}/main/default/chat_payload"
    assert "(not one of ours)" in out.splitlines()[2]
    assert [(one["name"], one["rows"], one["files"]) for one in json.loads(as_json)] == [
        (PAYLOAD, 5, 2),
        ("main.default.sales", 0, 0),
        (USAGE, 3, 1),
    ]


def test_list_says_where_it_looked_when_there_is_nothing(settings: Settings) -> None:
    code, out, err = _tables(settings, "list")

    assert (code, out) == (0, "")
    assert settings.table_root in err
    assert _tables(settings, "list", "--json")[1] == "[]\n"


def test_show_prints_the_newest_rows_first(settings: Settings) -> None:
    day_ns = 86_400_000_000_000
    old, new, newest = (recorded(received_ns=n * day_ns, usage=True)[0] for n in (1, 2, 3))
    delivered(settings, [newest, old])
    delivered(settings, [new], spool="b")

    code, out, _ = _tables(settings, "show", PAYLOAD, "-n", "2", "--json")
    shown = [json.loads(line) for line in out.splitlines()]
    _, text, _ = _tables(settings, "show", USAGE, "-n", "1")

    assert code == 0
    assert [row["databricks_request_id"] for row in shown] == [newest.interaction_id, new.interaction_id]
    assert shown[0]["request"] == newest.request
    head, row = text.splitlines()
    assert "INPUT_TOKEN_COUNT" in head
    assert "ACCOUNT_ID" not in head
    assert "1970-01-04 00:00:00+00:00" in row
    assert '{"project":"loom"}' in row


def test_what_a_caller_wrote_does_not_drive_the_terminal(settings: Settings) -> None:
    delivered(settings, recorded(request="a\x1b[2Jb\nc"))

    _, out, _ = _tables(settings, "show", PAYLOAD)

    assert len(out.splitlines()) == 2


@pytest.mark.parametrize(("name", "said"), [("a.b.c_payload", "there is no table"), ("../x", "is not the name")])
def test_a_table_that_is_not_there_is_said(settings: Settings, name: str, said: str) -> None:
    for command in ("show", "compact", "vacuum"):
        code, out, err = _tables(settings, command, name)

        assert (code, out) == (1, "")
        assert said in err
        assert err.count("\n") == 1


def test_compact_and_vacuum_leave_one_file_with_every_row(settings: Settings) -> None:
    batches = [recorded(2) for _ in range(3)]
    for number, batch in enumerate(batches):
        delivered(settings, batch, spool=f"spool-{number}")

    assert _tables(settings, "compact")[:2] == (0, f"{PAYLOAD}: 3 small files joined\n")
    assert _tables(settings, "vacuum", "--json")[:2] == (0, json.dumps({PAYLOAD: 0}, separators=(",", ":")) + "\n")
    assert len(parquet_files(settings)) == 4
    assert _tables(settings, "vacuum", PAYLOAD, "--hours", "0")[:2] == (0, f"{PAYLOAD}: 3 files deleted\n")
    assert len(parquet_files(settings)) == 1
    assert ids(settings) == sorted(one.interaction_id for batch in batches for one in batch)
