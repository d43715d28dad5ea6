"""Somebody forgotten, from the command line: nothing of theirs is left, and nothing of anybody else's is gone."""

import json
import shutil
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pexpect
import pytest
from click.testing import CliRunner, Result

from llmops.cli.forget import forget as command
from llmops.errors import CommandError, Unavailable
from llmops.interactions.feedback import Feedback
from llmops.interactions.mlflow_deletion import open_deletion
from llmops.interactions.record import Interaction
from llmops.interactions.spool import Spool
from llmops.interactions.table_deletion import count_user
from llmops.interactions.table_sink import TableSink
from llmops.settings import Settings
from tests.cli.shell import terminal
from tests.conftest import NewServer
from tests.interactions.deliveries import delivered, leased
from tests.interactions.records import one_of_each, plain
from tests.interactions.spooling import append, ids, plains, reading, stored
from tests.logged import flush
from tests.server import demo

#: Written with an escape in JSON, and with bytes beyond ASCII.
ZOE = 'Zoë "O\'Neil" <zoe@canary.example>'
CANARY = "tell-nobody-of-the-canary"
TABLE = "main.log.chat_payload"


@pytest.fixture
def settings(tmp_path: Path, mlflow_template: Path) -> Settings:
    """Settings of a data directory of this test's own."""
    shutil.copy(mlflow_template, tmp_path / "mlflow.db")
    return Settings(data_dir=tmp_path)


def of(user: str, one: Interaction, text: str = CANARY) -> Interaction:
    request = json.dumps({"messages": [{"role": "user", "content": text * 50}]})
    return replace(one, user=user, session=f"of {user}", request=request, response=json.dumps({"text": text}))


def forget(settings: Settings, user: str, *options: str) -> Result:
    return CliRunner().invoke(command, ["--user", user, "--data-dir", str(settings.data_dir), *options])


def forgotten(settings: Settings, user: str = ZOE) -> dict[str, Any]:
    result = forget(settings, user, "--yes", "--json")
    assert result.exception is None, result.output
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def files_with(directory: Path, *texts: str) -> list[str]:
    needles = [text.encode() for text in texts]
    files = [path for path in directory.rglob("*") if path.is_file()]
    return [str(path) for path in files if any(needle in path.read_bytes() for needle in needles)]


def feedback(user: str, one: Interaction) -> Feedback:
    return Feedback.read({"interaction_id": one.interaction_id, "value": CANARY, "user": user})


def fill_every_place(settings: Settings) -> list[Interaction]:
    """Put something of Zoë and of Bob everywhere; returns what of Bob waits in the spool."""
    bobs = [of("bob", one, "hello") for one in one_of_each()]
    delivered(settings, *(of(ZOE, one) for one in one_of_each()), *bobs)
    store = TableSink(settings)
    tabled = [
        replace(of(user, plain(), text), payload_table=TABLE, usage_tracked=True)
        for user, text in ((ZOE, CANARY), ("bob", "hello"))
    ]
    store.deliver(leased(tabled))
    store.close()
    waiting = plains(3)
    spool: Spool[Interaction] = Spool(settings.spool_dir / "worker-0.db")
    append(spool, [of(ZOE, one) for one in plains(200)])
    with closing(reading(spool.path)) as reader:
        shipped = reader.lease(190, 1)
        reader.ack(shipped)
        (bad,) = reader.lease(1, 1)
        reader.bury(bad, "it is broken")
        reader.lease(2, 1)
    append(spool, waiting)
    spool.close()
    opinions: Spool[Feedback] = Spool(settings.feedback_dir / "worker-0.db")
    opinions.append(feedback(ZOE, bobs[0]))
    opinions.append(replace(feedback("bob", bobs[0]), value="good"))
    opinions.close()
    return waiting


def test_not_a_byte_of_a_forgotten_person_is_left_in_the_data_directory(settings: Settings) -> None:
    """Not in free pages, not in logs: what was shipped long ago, deleted rows, replaced table files."""
    waiting = fill_every_place(settings)
    assert len(files_with(settings.data_dir, CANARY, "zoe@canary.example")) >= 5

    document = forgotten(settings)

    assert files_with(settings.data_dir, CANARY, "zoe@canary.example") == []
    assert document["removed"] is True
    assert document["places"] == {
        "records in spools": 10,
        "dead letters": 1,
        "runs in MLflow": 7,
        "traces in MLflow": 7,
        "sessions in MLflow": 3,
        f"rows of {TABLE}": 1,
        "rows of system.serving.endpoint_usage": 1,
    }
    assert count_user(settings, "bob") == {TABLE: 1, "system.serving.endpoint_usage": 1}
    assert open_deletion(settings).count_of_user("bob").interactions == 7
    assert stored(settings.feedback_dir / "worker-0.db") == 1
    with closing(reading(settings.spool_dir / "worker-0.db")) as reader:
        assert ids(one.record for one in reader.lease(10, 1 << 50)) == ids(waiting)


def test_somebody_unknown_is_found_nowhere(settings: Settings) -> None:
    fill_every_place(settings)

    assert forgotten(settings, "zoe@canary.example")["places"] == {}
    assert open_deletion(settings).count_of_user(ZOE).interactions == 7


def test_a_dry_run_counts_and_removes_nothing(settings: Settings) -> None:
    fill_every_place(settings)

    result = forget(settings, ZOE, "--dry-run", "--json")

    counted = json.loads(result.stdout)
    assert counted["removed"] is False
    assert counted["places"] == forgotten(settings)["places"]


def test_it_is_not_done_without_a_yes(settings: Settings) -> None:
    delivered(settings, of(ZOE, plain()))

    result = forget(settings, ZOE)

    assert isinstance(result.exception, CommandError)
    assert result.exception.exit_code == 64
    assert "--yes" in result.exception.message
    assert open_deletion(settings).count_of_user(ZOE).interactions == 1


def test_people_are_asked_first(settings: Settings) -> None:
    delivered(settings, of("bob", plain()))
    for answer, left in (("n", 1), ("y", 0)):
        asking = terminal("", "interactions", "forget", "--user", "bob", "--data-dir", str(settings.data_dir))
        asking.expect("1 runs in MLflow found", timeout=60)
        asking.expect("Remove all of this")
        asking.sendline(answer)
        asking.expect(pexpect.EOF, timeout=60)
        asking.close()

        assert asking.exitstatus == (130 if left else 0)
        assert open_deletion(settings).count_of_user("bob").interactions == left


def test_nobody_is_not_a_person(settings: Settings) -> None:
    """An empty name would be everybody's who gave none."""
    delivered(settings, replace(plain(), user=None))

    assert isinstance(forget(settings, "", "--yes").exception, CommandError)
    assert open_deletion(settings).count_before(open_deletion(settings).experiments()["chat"], 1 << 50).runs == 1


def test_files_nobody_can_read_are_named(settings: Settings) -> None:
    aside = settings.spool_dir / "worker-0.db.damaged-20260101T000000-1"
    settings.spool_dir.mkdir()
    aside.write_bytes(b"who knows")

    assert any(str(aside) in line for line in forgotten(settings)["kept"])


def test_a_record_number_is_not_given_again(settings: Settings) -> None:
    """Sinks know records by their numbers; the last one may be the forgotten one's."""
    spool: Spool[Interaction] = Spool(settings.spool_dir / "worker-0.db")
    append(spool, [plain(), of(ZOE, plain())])

    forgotten(settings)
    spool.append(plain())
    spool.close()

    with closing(reading(spool.path)) as reader:
        assert [one.seq for one in reader.lease(10, 1)] == [1, 3]


def test_a_record_is_somebodys_by_its_user_and_not_by_what_it_says(settings: Settings) -> None:
    about = replace(plain(), user="bob", request=orjson.dumps({"user": ZOE, "messages": []}).decode(), session=ZOE)
    spool: Spool[Interaction] = Spool(settings.spool_dir / "worker-0.db")
    append(spool, [about])
    spool.close()

    assert forgotten(settings)["places"] == {}
    assert stored(spool.path) == 1


def test_what_cannot_be_reached_fails_and_can_be_repeated(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    delivered(settings, of(ZOE, plain()))
    with monkeypatch.context() as away:
        away.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        assert isinstance(forget(settings, ZOE, "--yes").exception, Unavailable)

    assert forgotten(settings)["places"]["runs in MLflow"] == 1


def test_a_running_server_forgets_too(new_server: NewServer) -> None:
    """Somebody else's requests are answered and logged all the while."""
    server = new_server(demo())
    answered = [server.ask("demo", f"hello {number}", user=user) for number in range(20) for user in (ZOE, "bob")]
    assert {answer.status_code for answer in answered} == {200}

    places = forgotten(server.settings)["places"]

    flush(server)
    assert files_with(server.data_dir / "spool", "zoe@canary.example") == []
    deletion = open_deletion(server.settings)
    assert deletion.count_of_user(ZOE).interactions == 0
    assert deletion.count_of_user("bob").interactions == 20
    assert places.get("records in spools", 0) + places.get("runs in MLflow", 0) == 20
    assert server.ask("demo", "still there?", user="bob").status_code == 200
