"""Old interactions deleted, from the command line."""

import json
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from click.testing import CliRunner
from mlflow.store.db.utils import create_sqlalchemy_engine

from llmops.cli.prune import prune as command
from llmops.endpoints.files import EndpointFile
from llmops.endpoints.spec import EndpointSpec
from llmops.errors import CommandError, NotFound
from llmops.interactions.record import Interaction
from llmops.settings import Settings
from tests.cli.pruning import aged, change, delete, endpoint, endpoints, prune, pruned
from tests.interactions.deliveries import delivered
from tests.interactions.records import embedded, plain, unreadable
from tests.server import demo


@pytest.fixture
def settings(either_store: Settings) -> Settings:
    """Settings of a data directory of this test's own."""
    return either_store


@pytest.fixture
def in_files(tmp_path: Path, mlflow_template: Path) -> Settings:
    """The same, with everything in SQLite."""
    shutil.copy(mlflow_template, tmp_path / "mlflow.db")
    return Settings(data_dir=tmp_path)


@contextmanager
def database(settings: Settings) -> Iterator[sa.Connection]:
    engine = create_sqlalchemy_engine(settings.tracking_uri)
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


def left(settings: Settings) -> set[str]:
    """The ids of the interactions there are; each whole: a run, a trace, and all their rows."""
    with database(settings) as connection:

        def ids(query: str) -> set[str]:
            return {str(value).removeprefix("tr-") for (value,) in connection.execute(sa.text(query))}

        runs = ids("SELECT value FROM tags WHERE key = 'llmops.interaction_id'")
        for table, column in (("trace_info", "request_id"), ("spans", "trace_id"), ("trace_tags", "request_id")):
            assert ids(f"SELECT {column} FROM {table}") == runs
        assert ids("SELECT run_uuid FROM params") == runs
        assert ids("SELECT run_uuid FROM latest_metrics") == runs
    return runs


def test_each_endpoint_keeps_what_it_says(settings: Settings) -> None:
    endpoint(settings, "chat", llmops={"retention_days": 30})
    endpoint(settings, "vectors", llmops={"retention_days": 3})
    endpoint(settings, "for-ever")
    old, young = aged(plain(), 31), aged(plain(), 29)
    vectors, new_vectors = aged(embedded(), 4), aged(embedded(), 2)
    kept = aged(plain("for-ever"), 1000)
    delivered(settings, old, young, vectors, new_vectors, kept)

    document = pruned(settings)

    assert left(settings) == {one.interaction_id for one in (young, new_vectors, kept)}
    assert {name: one["interactions"] for name, one in document["endpoints"].items()} == {"chat": 1, "vectors": 1}


def test_one_endpoint_can_be_pruned_alone(settings: Settings) -> None:
    for name in ("chat", "vectors"):
        endpoint(settings, name, llmops={"retention_days": 1})
    chat, vectors = aged(plain(), 2), aged(embedded(), 2)
    delivered(settings, chat, vectors)

    pruned(settings, "--endpoint", "vectors")

    assert left(settings) == {chat.interaction_id}


def test_an_age_covers_endpoints_that_are_gone_and_rejected_calls(settings: Settings) -> None:
    endpoint(settings, "chat", llmops={"retention_days": 9999})
    young = aged(plain(), 1)
    delivered(settings, aged(plain(), 31), aged(plain("gone"), 31), aged(unreadable(), 31), young)

    document = pruned(settings, "--older-than", "30d")

    assert left(settings) == {young.interaction_id}
    assert {name: one["interactions"] for name, one in document["endpoints"].items()} == {
        "chat": 1,
        "gone": 1,
        "_rejected": 1,
    }


def test_calls_of_an_endpoint_that_could_not_be_read_are_as_old_as_the_others(settings: Settings) -> None:
    """They are with the calls that reached no endpoint; those stay."""
    endpoint(settings, "chat", llmops={"retention_days": 30})
    endpoint(settings, "for-ever")
    garbled = [replace(aged(unreadable(), 31), endpoint=name) for name in ("chat", "for-ever", "nobody", "")]
    young = replace(aged(unreadable(), 29), endpoint="chat")
    delivered(settings, *garbled, young)

    counted = json.loads(prune(settings, "--dry-run", "--json").stdout)
    document = pruned(settings)

    assert left(settings) == {one.interaction_id for one in (*garbled[1:], young)}
    assert document["endpoints"] == counted["endpoints"] == {"chat": {"interactions": 1, "sessions": 0}}


def test_an_endpoint_that_is_gone_keeps_what_it_said_last(settings: Settings) -> None:
    endpoint(settings, "chat", llmops={"retention_days": 90})
    change(settings, "chat", llmops={"retention_days": 30})
    endpoint(settings, "again", llmops={"retention_days": 30})
    endpoint(settings, "for-ever")
    for name in ("chat", "again", "for-ever"):
        delete(settings, name)
    endpoint(settings, "again")
    old, young = aged(plain(), 31), aged(plain(), 29)
    kept = aged(plain("again"), 1000), aged(plain("for-ever"), 1000)
    delivered(settings, old, young, *kept)

    document = pruned(settings)

    assert left(settings) == {one.interaction_id for one in (young, *kept)}
    assert list(document["endpoints"]) == ["chat"]


def test_a_file_that_is_wrong_for_a_while_and_then_gone_is_remembered(in_files: Settings) -> None:
    spec = EndpointSpec.model_validate({**demo("chat"), "llmops": {"retention_days": 30}})
    path = Path("chat.yaml")
    wrong = EndpointFile(path, "chat", None, ("no such key",))
    with endpoints(in_files) as store:
        for files in ([EndpointFile(path, "chat", spec)], [wrong], []):
            store.sync(files)
    delivered(in_files, aged(plain(), 31))

    assert pruned(in_files)["endpoints"]["chat"]["interactions"] == 1


def test_a_dry_run_deletes_nothing(in_files: Settings) -> None:
    one = aged(plain(), 31)
    delivered(in_files, one)

    result = prune(in_files, "--older-than", "30d", "--dry-run")

    assert "chat: 1 interactions would be deleted" in result.stdout
    assert left(in_files) == {one.interaction_id}


def test_without_a_word_about_ages_nothing_is_deleted(in_files: Settings) -> None:
    endpoint(in_files, "chat")
    one = aged(plain(), 9999)
    delivered(in_files, one)

    result = prune(in_files)

    assert result.exit_code == 0
    assert "--older-than" in result.stdout
    assert left(in_files) == {one.interaction_id}


@pytest.mark.parametrize("age", ["30", "0d", "-1d", "1y", "", "1.5d"])
def test_an_age_that_is_none_is_refused(in_files: Settings, age: str) -> None:
    one = aged(plain(), 9999)
    delivered(in_files, one)

    result = prune(in_files, "--older-than", age)

    assert result.exit_code == 2
    assert left(in_files) == {one.interaction_id}


def test_an_endpoint_nothing_was_logged_of_is_said(in_files: Settings) -> None:
    assert isinstance(prune(in_files, "--older-than", "1d", "--endpoint", "nobody").exception, NotFound)


def test_freed_space_is_given_back_when_asked_to(in_files: Settings) -> None:
    settings = in_files
    delivered(settings, *(replace(aged(plain(), 31), request="x" * 10**6) for _ in range(5)))
    with database(settings) as connection:
        connection.execute(sa.text("PRAGMA wal_checkpoint(TRUNCATE)"))
    before = (settings.data_dir / "mlflow.db").stat().st_size

    pruned(settings, "--older-than", "30d")
    unchanged = (settings.data_dir / "mlflow.db").stat().st_size
    pruned(settings, "--older-than", "30d", "--vacuum")

    assert unchanged >= before
    assert (settings.data_dir / "mlflow.db").stat().st_size < before - 4 * 10**6


def test_a_prune_that_is_killed_leaves_whole_interactions_and_the_next_one_finishes(settings: Settings) -> None:
    young = aged(plain(), 1)
    delivered(settings, *(aged(plain(), 31) for _ in range(2000)), young)
    arguments = ("interactions", "prune", "--older-than", "30d", "--data-dir", str(settings.data_dir))
    process = subprocess.Popen([sys.executable, "-m", "llmops.cli.main", *arguments], stdin=subprocess.DEVNULL)
    with database(settings) as connection:
        while connection.scalar(sa.text("SELECT count(*) FROM runs WHERE run_uuid != ''")) > 1900:
            assert process.poll() is None
            connection.rollback()
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=20)

    half = left(settings)
    assert 1 < len(half) < 2001
    pruned(settings, "--older-than", "30d")
    assert left(settings) == {young.interaction_id}


def test_interactions_are_logged_while_others_are_deleted(settings: Settings) -> None:
    delivered(settings, *(aged(plain(), 31) for _ in range(1000)))
    new: list[Interaction] = []
    done = threading.Event()

    def log() -> None:
        while not done.is_set():
            new.extend(batch := [plain() for _ in range(20)])
            outcomes.extend(delivered(settings, *batch))

    outcomes: list[Any] = []
    writer = threading.Thread(target=log)
    writer.start()
    try:
        pruned(settings, "--older-than", "30d")
    finally:
        done.set()
        writer.join(timeout=60)

    assert left(settings) == {one.interaction_id for one in new}
    assert {type(outcome).__name__ for outcome in outcomes} == {"Delivered"}


def test_vacuum_of_a_database_that_is_no_file_is_said(in_files: Settings, postgres: str) -> None:
    url = postgres.replace("postgresql:", "postgresql+psycopg2:")
    delivered(replace(in_files, mlflow_tracking_uri=url), aged(plain(), 31))

    runner = CliRunner(env={"MLFLOW_TRACKING_URI": url})
    options = ["--older-than", "30d", "--vacuum", "--data-dir", str(in_files.data_dir)]
    assert isinstance(runner.invoke(command, options).exception, CommandError)
