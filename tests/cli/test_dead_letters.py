import json
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from llmops.interactions.consumer import Consumer
from llmops.interactions.record import Interaction
from llmops.interactions.spool import Spool
from llmops.settings import Settings
from tests.cli.shell import llmops
from tests.interactions.scripted_sink import Scripted, route
from tests.interactions.spooling import dead_letters, fill, reading

NOBODY = "http://127.0.0.1:9"


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def buried(data_dir: Path) -> Iterator[list[Interaction]]:
    """Two interactions that the tables refused; MLflow has them. The worker has its spool open."""
    with closing(Spool[Interaction](data_dir / "spool" / "worker-0.db")) as spool:
        written = fill(spool, 2)
        with closing(reading(spool.path, "mlflow", "tables")) as mlflow:
            mlflow.ack(mlflow.lease(9, 0))
        with closing(reading(spool.path, "tables", "mlflow")) as tables:
            for one in tables.lease(9, 0):
                tables.bury(one, f"no such column {one.seq}")
        yield written


def dead(data_dir: Path, *args: str) -> tuple[int, str, str]:
    done = llmops(NOBODY, "interactions", "dead", *args, "--data-dir", str(data_dir))
    return done.returncode, done.stdout, done.stderr


def test_a_list_names_sink_and_reason(data_dir: Path, buried: list[Interaction]) -> None:
    code, table, _ = dead(data_dir, "list")
    _, document, _ = dead(data_dir, "list", "--json")

    assert code == 0
    assert "no such column 1" in table
    assert {(one["sink"], one["reason"], one["interaction_id"]) for one in json.loads(document)} == {
        ("tables", f"no such column {number + 1}", one.interaction_id) for number, one in enumerate(buried)
    }


def test_one_is_shown_by_its_own_id_and_by_its_interactions(data_dir: Path, buried: list[Interaction]) -> None:
    by_interaction = json.loads(dead(data_dir, "show", buried[1].interaction_id, "--json")[1])
    by_id = json.loads(dead(data_dir, "show", by_interaction[0]["dead_id"], "--json")[1])

    assert by_id == by_interaction
    assert by_id[0]["record"]["request"] == buried[1].request


def test_a_retried_one_goes_to_the_sink_that_refused_it_and_to_no_other(
    data_dir: Path, buried: list[Interaction]
) -> None:
    settings, mlflow, tables = Settings(data_dir=data_dir), Scripted("mlflow"), Scripted("tables")
    code, said, _ = dead(data_dir, "retry", buried[0].interaction_id)

    for sink in (mlflow, tables):
        ship(settings, sink, mlflow, tables)

    assert (code, said) == (0, "1 dead letter on their way again\n")
    assert (mlflow.held, tables.held) == ([], [buried[0]])
    assert [seq for _, seq in tables.seen] == [3]
    assert dead_letters(settings.spool_dir / "worker-0.db") == [("tables", "no such column 2")]


def test_all_are_retried(data_dir: Path, buried: list[Interaction]) -> None:
    assert json.loads(dead(data_dir, "retry", "--all", "--json")[1]) == {"retried": 2}
    assert json.loads(dead(data_dir, "list", "--json")[1]) == []


def test_dropping_asks_for_a_yes(data_dir: Path, buried: list[Interaction]) -> None:
    code, _, said = dead(data_dir, "drop", "--all")

    assert (code, said) == (64, "llmops: this deletes records for ever: repeat it with --yes\n")
    assert dead(data_dir, "drop", "--all", "--yes")[:2] == (0, "2 dead letters deleted\n")
    assert json.loads(dead(data_dir, "list", "--json")[1]) == []


@pytest.mark.parametrize("command", ["show", "retry", "drop"])
def test_a_wrong_id_names_the_nearest(data_dir: Path, buried: list[Interaction], command: str) -> None:
    code, _, said = dead(data_dir, command, "worker-0.9", *(["--yes"] if command == "drop" else []))

    assert code == 1
    assert said.startswith("llmops: there is no dead letter 'worker-0.9'; did you mean worker-0.")


@pytest.mark.parametrize("command", ["retry", "drop"])
def test_nothing_is_done_to_all_unasked(data_dir: Path, buried: list[Interaction], command: str) -> None:
    assert dead(data_dir, command)[0] == 64
    assert dead(data_dir, command, "worker-0.1", "--all")[0] == 64


def test_a_sink_that_is_not_configured_any_more_is_named(data_dir: Path, buried: list[Interaction]) -> None:
    with closing(reading(data_dir / "spool" / "worker-0.db", "mlflow")):
        code, _, said = dead(data_dir, "retry", "--all")

    assert code == 1
    assert "'tables', the sink of dead letter worker-0.1, is not configured here; there are mlflow" in said


def ship(settings: Settings, sink: Scripted, *all_sinks: Scripted) -> None:
    Consumer(route(settings, *all_sinks), sink, full_sync=False).drain(time.monotonic() + 10)
