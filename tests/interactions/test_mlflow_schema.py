"""The schema of MLflow's database: written directly where it is known, through the client or not at all where not."""

import logging
import sqlite3
from pathlib import Path

import pytest

from llmops.errors import Unavailable
from llmops.interactions.mlflow_schema import TESTED
from llmops.interactions.sink import Delivered
from llmops.settings import Settings
from tests.interactions.deliveries import leased, opened, runs
from tests.interactions.records import one_of_each, plain
from tests.interactions.stores import new_stores

(HEAD,) = TESTED


def migrate(settings: Settings, revision: str) -> None:
    """Say that the database is of another schema revision."""
    database = sqlite3.connect(settings.data_dir / "mlflow.db")
    with database:
        database.execute("UPDATE alembic_version SET version_num = ?", [revision])
    database.close()


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_the_installed_mlflow_is_one_the_sql_writer_was_tested_with(
    kind: str, tmp_path: Path, mlflow_template: Path
) -> None:
    with new_stores(kind, tmp_path, mlflow_template) as (settings,):
        sink = opened(settings)

    assert sink.chooses_run_ids
    assert sink.batch == 500
    assert sink.notice == ""


def test_a_schema_that_was_not_tested_goes_through_the_client_and_says_so(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """As with a newer mlflow, whose database is of its own revision."""
    with caplog.at_level(logging.WARNING):
        sink = opened(settings, frozenset({"0123456789ab"}))
    interactions = one_of_each()

    assert sink.deliver(leased(interactions)) == [Delivered()] * len(interactions)

    assert not sink.chooses_run_ids
    assert HEAD in sink.notice
    assert "0123456789ab" in sink.notice
    assert "upgrade llmops" in sink.notice
    assert [record.getMessage() for record in caplog.records] == [f"event=mlflow_client_writer reason={sink.notice!r}"]
    assert not {one.interaction_id for one in interactions} & {run.info.run_id for run in runs(settings)}


def test_a_schema_from_the_future_is_waited_for(settings: Settings) -> None:
    migrate(settings, "ffffffffffff")

    with pytest.raises(Unavailable) as caught:
        opened(settings)

    assert "ffffffffffff" in caught.value.message
    assert HEAD in caught.value.message
    assert "a later MLflow has migrated it; install that version" in caught.value.message


def test_a_schema_from_the_future_without_a_table_is_left_alone(settings: Settings) -> None:
    """MLflow would begin to fill it as if it were empty."""
    migrate(settings, "ffffffffffff")
    database = sqlite3.connect(settings.data_dir / "mlflow.db")
    database.execute("DROP TABLE trace_metrics")
    before = list(database.execute("SELECT name FROM sqlite_master ORDER BY name"))

    with pytest.raises(Unavailable, match="ffffffffffff"):
        opened(settings)

    assert list(database.execute("SELECT name FROM sqlite_master ORDER BY name")) == before
    database.close()


def test_an_old_schema_is_to_be_migrated(settings: Settings) -> None:
    migrate(settings, "451aebb31d03")

    with pytest.raises(Unavailable, match=r"old schema revision 451aebb31d03.*run 'mlflow db upgrade'"):
        opened(settings)


def test_a_schema_that_moves_while_we_write_is_noticed_at_once(settings: Settings) -> None:
    sink, interaction = opened(settings), plain()
    sink.deliver(leased([plain()]))
    migrate(settings, "ffffffffffff")

    for tries in (1, 2):
        with pytest.raises(Unavailable, match="ffffffffffff"):
            sink.deliver(leased([interaction], tries))
    assert len(rows(settings)) == 1

    migrate(settings, HEAD)
    assert sink.deliver(leased([interaction], 3)) == [Delivered()]
    assert len(rows(settings)) == 2


def rows(settings: Settings) -> list[object]:
    """The runs of interactions, in a database MLflow may not open."""
    database = sqlite3.connect(settings.data_dir / "mlflow.db")
    found = list(database.execute("SELECT run_uuid FROM tags WHERE key = 'llmops.interaction_id'"))
    database.close()
    return found
