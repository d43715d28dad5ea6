"""Somebody forgotten, from the command line: nothing of theirs is left, and nothing of anybody else's is gone."""

import json
import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pexpect
import pytest
from click.testing import CliRunner, Result
from mlflow import MlflowClient

from llmops.cli.forget import forget as command
from llmops.errors import CommandError, Unavailable
from llmops.experiments.comparison import Row, Side, figures
from llmops.experiments.comparison_run import ComparisonRun
from llmops.interactions.deletion import Removed
from llmops.interactions.feedback import Feedback
from llmops.interactions.mlflow_deletion import open_deletion
from llmops.interactions.mlflow_store import open_store
from llmops.interactions.record import Interaction, new_id
from llmops.interactions.spool import Spool
from llmops.interactions.table_deletion import count_user
from llmops.interactions.table_sink import TableSink
from llmops.settings import Settings
from tests.canaries import dumped
from tests.cli.shell import terminal
from tests.conftest import NewServer
from tests.interactions.deliveries import delivered, leased, runs
from tests.interactions.records import one_of_each, plain
from tests.interactions.spooling import append, ids, plains, reading, stored
from tests.logged import flush
from tests.server import demo
from tests.tracking import MlflowServer

#: Written with an escape in JSON, and with bytes beyond ASCII.
ZOE = 'Zoë "O\'Neil" <zoe@canary.example>'
#: A tracking server cannot be asked for a name with both kinds of quotes.
ZOE_PLAIN = "zoe@canary.example"
CANARY = "tell-nobody-of-the-canary"
TABLE = "main.log.chat_payload"


@pytest.fixture
def settings(tmp_path: Path, mlflow_template: Path) -> Settings:
    """Settings of a data directory of this test's own."""
    shutil.copy(mlflow_template, tmp_path / "mlflow.db")
    return Settings(data_dir=tmp_path)


@pytest.fixture
def over_http(tmp_path: Path, mlflow_template: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """The same, where runs are kept by a tracking server."""
    with MlflowServer(tmp_path, mlflow_template) as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
        (tmp_path / "client").mkdir()
        yield Settings(tmp_path / "client", mlflow_tracking_uri=server.url)


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


def asked_again(one: Interaction, run_id: str) -> Interaction:
    """What `llmops replay` makes of an interaction: the same question, in nobody's name."""
    again = replace(one, interaction_id=new_id(), user="operator", session=None, endpoint="other")
    return replace(again, client_request_id=f"replay-{run_id[:8]}-{one.interaction_id}")


def make_copies(settings: Settings, *originals: Interaction, **params: str) -> tuple[str, list[Interaction]]:
    """Make a dataset of logged interactions, and compare them with replays of them.

    Returns:
        The id of the comparison's run, and the replays.
    """
    store = open_store(settings)
    experiments = list(open_deletion(settings).experiments().values())
    for number, one in enumerate(originals):
        source = {"source_type": "TRACE", "source_data": {"trace_id": one.trace_id}}
        row = {"inputs": {"q": one.request, "number": number}, "expectations": {"a": one.response}, "source": source}
        found = store.search_datasets(filter_string="name = 'golden'")
        dataset = found[0] if found else store.create_dataset("golden", experiment_ids=experiments)
        store.upsert_dataset_records(dataset.dataset_id, [row])
    run = ComparisonRun(settings, "other", {"to": "other", **params})
    replays = [asked_again(one, run.run_id) for one in originals]
    delivered(settings, *replays)
    pairs = zip(originals, replays, strict=True)
    rows = [Row(before.request, side(before), side(after), True, 1.0) for before, after in pairs]
    run.end(rows, figures(rows), "FINISHED")
    return run.run_id, replays


def side(one: Interaction) -> Side:
    return Side(one.response, None, 1.0, 1, 1, 0.0, one.endpoint, one.model, one.interaction_id)


def copies_left(settings: Settings) -> list[Any]:
    store = open_store(settings)
    (dataset,) = store.search_datasets(filter_string="name = 'golden'")
    records, _ = store._load_dataset_records(dataset.dataset_id)
    counted = json.loads(dataset.profile or "null") or {"num_records": 0}
    assert counted["num_records"] == len(records)
    return [record.source_id for record in records]


def comparisons_left(settings: Settings) -> list[str]:
    client = MlflowClient(settings.tracking_uri)
    experiment = client.get_experiment_by_name("llmops-replays")
    assert experiment is not None
    return [run.info.run_id for run in client.search_runs([experiment.experiment_id])]


def fill_every_place(settings: Settings) -> list[Interaction]:
    """Put something of Zoë and of Bob everywhere; returns what of Bob waits in the spool."""
    bobs = [of("bob", one, "hello") for one in one_of_each()]
    zoes = [of(ZOE, one) for one in one_of_each()]
    delivered(settings, *zoes, *bobs)
    make_copies(settings, zoes[0], zoes[1], bobs[0])
    make_copies(settings, bobs[1], bobs[2])
    store = TableSink(settings)
    tabled = [
        replace(of(user, plain(), text), payload_table=TABLE, usage_tracked=True)
        for user, text in ((ZOE, CANARY), ("bob", "hello"))
    ]
    tabled.append(replace(asked_again(zoes[0], "f" * 32), payload_table=TABLE, usage_tracked=True))
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
    append(spool, [asked_again(zoes[3], "f" * 32)])
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
        "records in spools": 11,
        "dead letters": 1,
        "runs in MLflow": 9,
        "traces in MLflow": 9,
        "sessions in MLflow": 3,
        "rows of evaluation datasets": 2,
        "comparisons of replays": 1,
        f"rows of {TABLE}": 2,
        "rows of system.serving.endpoint_usage": 2,
    }
    assert len(copies_left(settings)) == 3
    assert len(comparisons_left(settings)) == 1
    assert open_deletion(settings).count_of_user("operator").interactions == 3
    assert count_user(settings, "bob") == {TABLE: 1, "system.serving.endpoint_usage": 1}
    assert open_deletion(settings).count_of_user("bob").interactions == 7 + 3  # And what repeats them.
    assert stored(settings.feedback_dir / "worker-0.db") == 1
    with closing(reading(settings.spool_dir / "worker-0.db")) as reader:
        assert ids(one.record for one in reader.lease(10, 1 << 50)) == ids(waiting)


def test_what_was_made_of_a_persons_interactions_goes_with_them(either_store: Settings) -> None:
    settings = either_store
    zoe, bob = of(ZOE, plain()), of("bob", plain(), "hello")
    delivered(settings, zoe, bob)
    make_copies(settings, zoe, bob)
    kept, _ = make_copies(settings, bob)
    make_copies(settings, **{"filter.user": ZOE})

    counted = json.loads(forget(settings, ZOE, "--dry-run", "--json").stdout)["places"]
    places = forgotten(settings)["places"]

    assert places == counted
    assert (places["runs in MLflow"], places["comparisons of replays"]) == (2, 2)
    assert places["rows of evaluation datasets"] == 1
    assert copies_left(settings) == [bob.trace_id] * 2
    assert comparisons_left(settings) == [kept]
    assert files_with(Path(settings.artifact_root), CANARY) == []
    assert forgotten(settings)["places"] == {}
    if settings.tracking_uri.startswith("postgresql"):
        rows = dumped(settings.tracking_uri.replace("+psycopg2", ""))
        assert [table for table, row in rows if CANARY.encode() in row or b"canary.example" in row] == []


def test_a_tracking_server_forgets_what_was_made_too(over_http: Settings) -> None:
    """As far as its API can: runs are only marked, which is said."""
    zoe, bob = of(ZOE_PLAIN, plain()), of("bob", plain(), "hello")
    delivered(over_http, zoe, bob)
    make_copies(over_http, zoe, bob)
    kept, replays = make_copies(over_http, bob)

    counted = json.loads(forget(over_http, ZOE_PLAIN, "--dry-run", "--json").stdout)["places"]
    document = forgotten(over_http, ZOE_PLAIN)

    assert document["places"] == counted
    assert (counted["runs in MLflow"], counted["comparisons of replays"]) == (2, 1)
    assert counted["rows of evaluation datasets"] == 1
    assert copies_left(over_http) == [bob.trace_id] * 2
    assert comparisons_left(over_http) == [kept]
    assert any("only marked the runs as deleted" in line for line in document["kept"])
    left = {run.data.tags["llmops.interaction_id"] for run in runs(over_http)}
    assert replays[0].interaction_id in left


def test_a_replay_that_arrives_while_its_original_is_forgotten_is_found(settings: Settings) -> None:
    """Nothing leads to it any more but the id of what is gone."""
    zoe = of(ZOE, plain())
    delivered(settings, zoe)
    deletion = open_deletion(settings)
    ids = deletion.ids_of(ZOE)
    list(deletion.of_user(ZOE, ids))
    delivered(settings, asked_again(zoe, "f" * 32))

    gone = sum(deletion.of_user(ZOE, ids), Removed())

    assert (gone.runs, gone.traces) == (1, 1)
    assert files_with(settings.data_dir / "mlartifacts", CANARY) == []


def test_somebody_unknown_is_found_nowhere(settings: Settings) -> None:
    fill_every_place(settings)

    assert forgotten(settings, "zoe@canary.example")["places"] == {}
    assert open_deletion(settings).count_of_user(ZOE).interactions == 7 + 2


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
