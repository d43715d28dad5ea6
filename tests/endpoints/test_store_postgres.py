"""Several servers on one PostgreSQL database, and a database that is away, silent, wrong or new."""

import asyncio
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import psycopg2
import pytest

from llmops.endpoints.store import Child, Store
from llmops.endpoints.store_postgres import LIMIT_S, Postgres
from llmops.errors import AlreadyExists, CommandError, LlmopsError, NotFound, Unavailable
from tests.endpoints.test_store import file, spec
from tests.postgres import Line, hang_up, run
from tests.server import free_port

Opener = Callable[[str, str], Store]


@pytest.fixture
def begun(tmp_path: Path) -> Iterator[Opener]:
    """Starts the store of a server of this name on a database."""
    with ExitStack() as closing:

        def begin(name: str, url: str) -> Store:
            store = Store(tmp_path / name / "llmops.db", url)
            closing.callback(store.close)
            store.begin()
            return store

        yield begin


def test_what_one_server_creates_another_serves_while_it_follows(begun: Opener, postgres: str) -> None:
    one, other = begun("one", postgres), begun("other", postgres)

    async def followed() -> None:
        following = asyncio.create_task(other.follow())
        made = await asyncio.to_thread(one.create, spec("chat"), None)
        await _until(lambda: other.all() == [made])
        await asyncio.to_thread(one.delete, "chat")
        await _until(lambda: other.all() == [])
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)

    asyncio.run(followed())


def test_servers_keep_their_files_and_their_engines_to_themselves(begun: Opener, postgres: str, tmp_path: Path) -> None:
    one, other = begun("one", postgres), begun("other", postgres)
    one.sync([file(tmp_path, "chat")])
    one.put_child(Child("engine", "ready", "http://127.0.0.1:1"))
    before = one.get("chat")

    other.sync([])
    other.begin()

    assert other.all() == []
    assert other.children() == {}
    assert one.get("chat") == before
    assert list(one.children()) == ["engine"]


def test_a_servers_file_keeps_its_name_there_and_gives_way_when_it_is_gone(
    begun: Opener, postgres: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one, other = begun("one", postgres), begun("other", postgres)
    one.sync([file(tmp_path, "chat")])
    shared = other.create(spec("chat", "shared"), None)

    assert one.get("chat").source == str(tmp_path / "chat.yaml")
    assert f"event=endpoint_of_a_file_kept endpoint=chat file={tmp_path}/chat.yaml" in caplog.text
    with pytest.raises(AlreadyExists):
        one.create(spec("chat"), None)
    one.begin()
    one.sync([])
    assert one.get("chat") == shared


def test_servers_that_start_at_once_make_the_tables_once(postgres: str) -> None:
    databases = [Postgres(postgres) for _ in range(6)]
    start, failed = threading.Barrier(len(databases)), []

    def prepare(database: Postgres) -> None:
        start.wait()
        try:
            database.prepare(5)
        except LlmopsError as err:
            failed.append(err.message)

    threads = [threading.Thread(target=prepare, args=(database,)) for database in databases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for database in databases:
        database.close()

    assert failed == []
    assert run(postgres, "SELECT schema_version, changes FROM llmops.state") == [(2, 1)]


def test_a_connection_that_was_ended_is_replaced_unnoticed(begun: Opener, postgres: str) -> None:
    store = begun("one", postgres)

    ended = hang_up(postgres)
    made = store.create(spec("chat"), None)

    assert ended == 1
    assert store.get("chat") == made


def test_a_database_that_is_away_leaves_what_is_known(
    begun: Opener, postgres: str, caplog: pytest.LogCaptureFixture
) -> None:
    with Line(postgres) as line:
        store = begun("one", line.url)
        made = store.create(spec("chat"), None)
        line.cut()

        for change in (
            lambda: store.create(spec("new"), None),
            lambda: store.update(made, spec("chat", "new")),
            lambda: store.delete("chat"),
        ):
            with pytest.raises(
                Unavailable, match=r"^the database postgresql://127.0.0.1:\d+/llmops_\w+ cannot be used"
            ):
                change()
        assert store.all() == [made]

        async def gone_and_back() -> None:
            following = asyncio.create_task(store.follow())
            await _until(lambda: "event=database_away" in caplog.text)
            line.mend()
            await _until(lambda: "event=database_back" in caplog.text)
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)

        asyncio.run(gone_and_back())

        assert caplog.text.count("event=database_away") == 1
        assert store.update(made, spec("chat", "new")).revision == 2


def test_a_server_starts_with_what_it_knew_while_the_database_is_away(
    begun: Opener, postgres: str, tmp_path: Path
) -> None:
    """A worker that died is replaced; only the start of the whole server waits for the database."""
    with Line(postgres) as line:
        made = begun("one", line.url).create(spec("chat"), None)
        line.cut()

        worker = Store(tmp_path / "one" / "llmops.db", line.url)

        assert worker.all() == [made]
        worker.close()


def test_a_silent_database_is_given_up_on_in_time(begun: Opener, postgres: str) -> None:
    with Line(postgres) as line:
        store = begun("one", line.url)
        line.fall_silent()
        began = time.monotonic()

        with pytest.raises(Unavailable, match="no answer in 3 seconds"):
            store.create(spec("chat"), None)
        with pytest.raises(Unavailable, match="no answer in 3 seconds"):
            store.create(spec("chat"), None)

        assert time.monotonic() - began < LIMIT_S + 1, "the second caller waited too"
        line.speak()


def test_a_change_that_waits_for_a_lock_is_given_up_and_not_made_later(begun: Opener, postgres: str) -> None:
    store = begun("one", postgres)
    holder = psycopg2.connect(postgres)
    holder.cursor().execute("UPDATE llmops.state SET changes = changes + 1")

    with pytest.raises(Unavailable, match="canceling statement due to statement timeout"):
        store.create(spec("chat"), None)
    holder.commit()
    holder.close()

    with pytest.raises(NotFound):
        store.get("chat")


def test_a_backup_that_was_restored_is_followed(begun: Opener, postgres: str) -> None:
    """Its count of changes is lower than the one that was seen last."""
    store = begun("one", postgres)
    kept, later = store.create(spec("kept"), None), store.create(spec("later"), None)
    assert store.all() == [kept, later]

    run(postgres, "DELETE FROM llmops.endpoints WHERE name = 'later'")
    run(postgres, "UPDATE llmops.state SET changes = 2")

    assert store.get("kept") == kept
    assert store.all() == [kept]


def test_tables_that_are_gone_do_not_take_the_endpoints_with_them(begun: Opener, postgres: str) -> None:
    store = begun("one", postgres)
    made = store.create(spec("chat"), None)

    run(postgres, "DROP SCHEMA llmops CASCADE")

    with pytest.raises(Unavailable, match=r'relation "llmops.state" does not exist'):
        store.get("chat")
    assert store.all() == [made]


def test_a_database_of_a_newer_release_is_left_alone(begun: Opener, postgres: str) -> None:
    begun("one", postgres).create(spec("chat"), None)
    run(postgres, "UPDATE llmops.state SET schema_version = 3")

    with pytest.raises(CommandError, match=r"made by a newer release \(schema 3, this one knows 2\): upgrade"):
        begun("other", postgres)


def test_mlflows_tables_and_ours_may_live_in_one_database(begun: Opener, postgres: str) -> None:
    """MLflow has a table `endpoints`, too."""
    run(postgres, "CREATE TABLE endpoints (endpoint_id TEXT)")

    begun("one", postgres).create(spec("chat"), None)

    assert run(postgres, "SELECT count(*) FROM endpoints") == [(0,)]
    assert run(postgres, "SELECT name FROM llmops.endpoints") == [("chat",)]


def test_a_url_as_mlflow_writes_it_is_taken(begun: Opener, postgres: str) -> None:
    made = begun("one", postgres.replace("postgresql:", "postgresql+psycopg2:")).create(spec("chat"), None)

    assert begun("other", postgres).all() == [made]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mysql://u:hunter2@host/db", "LLMOPS_DATABASE_URL is a 'mysql:' URL; write postgresql://user:password@host"),
        ("postgresql://u:hunter2@x@host/db", "LLMOPS_DATABASE_URL cannot be read; write"),
        ("postgresql://u:hunter2/x@host/db", "LLMOPS_DATABASE_URL cannot be read; write"),
        ("postgresql://u:hunter2#x@host/db", "LLMOPS_DATABASE_URL cannot be read; write"),
        ("postgresql://u:hunter2@host/db?hunter2=1", "LLMOPS_DATABASE_URL cannot be read; write"),
        ("postgresql://u:hunter2@host:hunter2/db", "LLMOPS_DATABASE_URL cannot be read; write"),
    ],
)
def test_a_url_that_is_none_is_one_line_without_its_password(tmp_path: Path, url: str, message: str) -> None:
    with pytest.raises(CommandError) as caught:
        Store(tmp_path / "llmops.db", url)

    assert caught.value.message.startswith(message)
    assert "hunter2" not in caught.value.message
    assert list(tmp_path.iterdir()) == []


def test_a_database_that_is_not_there_at_the_start_is_one_line_without_its_password(
    caplog: pytest.LogCaptureFixture,
) -> None:
    database = Postgres(f"postgresql://u:hunter2@127.0.0.1:{(port := free_port())}/db")

    with caplog.at_level(logging.WARNING), pytest.raises(CommandError) as caught:
        database.prepare(patience_s=1)

    assert caught.value.message.startswith(f"the database postgresql://127.0.0.1:{port}/db cannot be used: ")
    assert "Connection refused" in caught.value.message
    assert caught.value.exit_code == 69
    assert caplog.text.count("event=database_awaited") == 1
    assert "hunter2" not in caught.value.message + caplog.text


def test_a_driver_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg2", None)
    monkeypatch.delitem(sys.modules, "llmops.endpoints.store_postgres")

    with pytest.raises(CommandError, match=r"pip install 'llmops\[postgres\]'"):
        Store(tmp_path / "llmops.db", "postgresql://host/db")


def test_the_driver_is_loaded_only_by_who_asks_for_it(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from llmops.endpoints.store import Store;"
    code += "Store(Path(sys.argv[1])); assert 'psycopg2' not in sys.modules"

    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "llmops.db")], timeout=60, check=False)

    assert done.returncode == 0


async def _until(condition: Callable[[], bool]) -> None:
    """Ask until it holds."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what another thread does has no event here.
            await asyncio.sleep(0.01)
