"""Interactions deleted from MLflow: all of each, nothing else, whole chunks at a time."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import AssessmentSource, Dataset, DatasetInput, Feedback, FileInfo
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

from llmops.errors import Unavailable
from llmops.interactions import mlflow_sql_deletion
from llmops.interactions.deletion import Deletion, Removed
from llmops.interactions.mlflow_api_deletion import ApiDeletion
from llmops.interactions.mlflow_deletion import open_deletion
from llmops.interactions.mlflow_sink import MlflowSink
from llmops.interactions.mlflow_sql_deletion import SqlDeletion
from llmops.interactions.mlflow_store import open_store
from llmops.interactions.mlflow_trace import trace_info
from llmops.interactions.record import Interaction
from llmops.settings import Settings
from tests.interactions.deliveries import delivered, leased
from tests.interactions.records import fallback, one_of_each, plain, unreadable
from tests.interactions.stores import content, new_stores
from tests.tracking import MlflowServer

ALICE, BOB = "alice@example.com", "bob"
NEVER_MS = 1 << 50


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path, mlflow_template: Path) -> Iterator[Settings]:
    """An MLflow database of each kind whose rows we know."""
    with new_stores(request.param, tmp_path, mlflow_template) as (settings,):
        yield settings


@pytest.fixture(params=["rows", "api"])
def deletion(request: pytest.FixtureRequest, settings: Settings) -> Deletion:
    """Each way of deleting, from the same database."""
    store = open_store(settings)
    assert isinstance(store, SqlAlchemyStore)
    return SqlDeletion(store) if request.param == "rows" else ApiDeletion(store)


def of(user: str, *interactions: Interaction, session: str | None = None) -> list[Interaction]:
    return [replace(one, user=user, session=session or f"of {user}") for one in interactions]


def removed(steps: Iterator[Removed]) -> Removed:
    return sum(steps, Removed())


def logged_ids(settings: Settings) -> set[str]:
    client = MlflowClient(settings.tracking_uri)
    experiments = [one.experiment_id for one in client.search_experiments(filter_string="name LIKE 'llmops/%'")]
    runs = {run.data.tags.get("llmops.interaction_id", "") for run in client.search_runs(experiments)} - {""}
    traces = {
        one.info.tags["llmops.interaction_id"]
        for one in client.search_traces(locations=experiments, include_spans=False, max_results=500)
    }
    assert runs == traces
    return runs


def dump(settings: Settings) -> str:
    with closing(sqlite3.connect(settings.data_dir / "mlflow.db")) as database:
        return "\n".join(database.iterdump())


def assess(settings: Settings, one: Interaction, user: str, **fields: Any) -> str:
    made = open_store(settings).create_assessment(
        Feedback(
            name="useful",
            value=True,
            source=AssessmentSource("HUMAN", user),
            trace_id=one.trace_id,
            create_time_ms=1,
            last_update_time_ms=1,
            **fields,
        )
    )
    return str(made.assessment_id)


def test_a_store_that_forgot_somebody_is_as_if_they_had_never_been_there(
    database: Settings,
) -> None:
    """Row by row, in every table; a session both took part in, and an opinion Alice replaced, among them."""
    stayed = [*of(BOB, *one_of_each()), *of(BOB, plain(), session="both"), *of(BOB, plain())]
    gone = [*of(ALICE, *one_of_each()), *of(ALICE, plain(), fallback(), session="both")]
    before, after = [replace(one, received_ns=10**18) for one in gone], gone
    delivered(database, *stayed)
    by_bob = assess(database, stayed[0], BOB)
    as_if_never = content(database)
    # Before Bob's in time, so that the session both take part in begins with Alice's.
    delivered(database, *before)
    assess(database, stayed[0], ALICE, overrides=by_bob)
    assess(database, before[0], BOB)
    assert content(database) != as_if_never

    found = open_deletion(database).count_of_user(ALICE)
    forgotten = removed(open_deletion(database).of_user(ALICE))

    assert content(database) == as_if_never
    assert (forgotten.interactions, forgotten.assessments) == (len(after), 1)
    assert (found.runs, found.traces, found.assessments) == (forgotten.runs, forgotten.traces, forgotten.assessments)


def test_the_session_that_somebody_else_began_stays_theirs(database: Settings) -> None:
    first, second = of(ALICE, replace(plain(), received_ns=10**18), session="both"), of(BOB, plain(), session="both")
    delivered(database, *first, *second)

    removed(open_deletion(database).of_user(ALICE))

    assert ALICE not in str(content(database))
    client = MlflowClient(database.tracking_uri)
    experiment = client.get_experiment_by_name("llmops/chat")
    assert experiment is not None
    (session,) = client.search_runs([experiment.experiment_id], "tags.`llmops.session` LIKE '%'")
    assert session.info.user_id == BOB
    assert session.info.start_time == second[0].received_ns // 1_000_000


def test_what_is_too_old_goes_and_nothing_else(settings: Settings, deletion: Deletion) -> None:
    old = [replace(one, received_ns=10**18, session="old") for one in (plain(), fallback())]
    new = [plain(), replace(plain(), session="old"), replace(plain("other"), received_ns=10**18)]
    delivered(settings, *old, *new)
    experiment_id = deletion.experiments()["chat"]
    before_ms = 10**12 + 1

    assert deletion.count_before(experiment_id, before_ms).interactions == 2
    assert removed(deletion.before(experiment_id, before_ms)).interactions == 2
    assert deletion.count_before(experiment_id, before_ms).interactions == 0
    assert logged_ids(settings) == {one.interaction_id for one in new}


def test_an_interaction_received_at_the_limit_stays(settings: Settings, deletion: Deletion) -> None:
    at, earlier = replace(plain(), received_ns=10**18), replace(plain(), received_ns=10**18 - 10**6)
    delivered(settings, at, earlier)

    removed(deletion.before(deletion.experiments()["chat"], 10**12))

    assert logged_ids(settings) == {at.interaction_id}


def test_a_session_goes_with_its_last_interaction(settings: Settings, deletion: Deletion) -> None:
    delivered(settings, *(replace(plain(), received_ns=10**18, session=name) for name in ("1", "1", "2")))

    gone = removed(deletion.before(deletion.experiments()["chat"], NEVER_MS))

    assert (gone.interactions, gone.sessions) == (3, 2)
    assert MlflowClient(settings.tracking_uri).search_runs(list(deletion.experiments().values())) == []


def test_runs_and_traces_of_others_in_the_same_experiment_stay(settings: Settings, deletion: Deletion) -> None:
    delivered(settings, plain())
    client = MlflowClient(settings.tracking_uri)
    experiment_id = deletion.experiments()["chat"]
    theirs = client.create_run(experiment_id, start_time=1, tags={"user": "ada@example.com"}).info.run_id
    by_hand = replace(trace_info(plain(), experiment_id, theirs), trace_id="tr-by-hand", tags={}, trace_metadata={})
    open_store(settings).start_trace(by_hand)

    removed(deletion.before(experiment_id, NEVER_MS))
    removed(deletion.of_user("ada@example.com"))

    assert [run.info.run_id for run in client.search_runs([experiment_id])] == [theirs]
    assert [one.info.trace_id for one in client.search_traces(locations=[experiment_id], include_spans=False)] == [
        "tr-by-hand"
    ]


def test_a_name_must_match_exactly(settings: Settings, deletion: Deletion) -> None:
    likes = ["alic_@example.com", "%", "Alice@example.com", "alice@example.com ", "alice"]
    stayed = [one for name in likes for one in of(name, plain())]
    delivered(settings, *stayed, *of(ALICE, plain()))

    removed(deletion.of_user(ALICE))
    removed(deletion.of_user("alic%"))

    assert logged_ids(settings) == {one.interaction_id for one in stayed}


def test_an_opinion_goes_and_the_answer_it_is_about_stays(settings: Settings, deletion: Deletion) -> None:
    (one,) = of(BOB, plain())
    delivered(settings, one)
    assess(settings, one, ALICE)
    by_bob = assess(settings, one, BOB)

    assert deletion.count_of_user(ALICE).assessments == 1
    assert removed(deletion.of_user(ALICE)) == Removed(assessments=1)

    (left,) = open_store(settings).get_trace_info(one.trace_id).assessments
    assert left.assessment_id == by_bob


def test_two_long_names_that_begin_alike_are_two_people(settings: Settings) -> None:
    one, other = (of("a" * 300 + end, plain())[0] for end in "12")
    delivered(settings, one, other)

    gone = removed(open_deletion(settings).of_user(str(one.user)))

    assert gone.interactions == 1
    assert logged_ids(settings) == {other.interaction_id}


def test_a_run_whose_trace_is_gone_and_a_trace_whose_run_is_gone_are_deleted(settings: Settings) -> None:
    one, other = of(ALICE, plain(), plain())
    delivered(settings, one, other)
    store = open_store(settings)
    deletion = open_deletion(settings)
    experiment_id = deletion.experiments()["chat"]
    store.delete_traces(experiment_id, trace_ids=[one.trace_id])
    assert isinstance(store, SqlAlchemyStore)
    store._hard_delete_run(other.interaction_id)

    assert removed(deletion.of_user(ALICE)).interactions == 1
    assert deletion.count_before(experiment_id, NEVER_MS) == Removed()


def test_interactions_the_client_writer_logged_are_deleted_whole(database: Settings) -> None:
    sink = MlflowSink(database, tested=frozenset())
    sink.open()
    assert not sink.chooses_run_ids
    sink.deliver(leased(of(BOB, *one_of_each())))
    as_if_never = content(database)
    sink.deliver(leased(of(ALICE, *one_of_each())))

    removed(open_deletion(database).of_user(ALICE))

    assert content(database) == as_if_never


def test_no_row_names_what_was_deleted(settings: Settings) -> None:
    """Not even those MLflow itself forgets: data sets a run has read, and a queue of traces to review."""
    (one,) = of(ALICE, plain())
    delivered(settings, one)
    store = open_store(settings)
    store.log_inputs(one.interaction_id, [DatasetInput(Dataset("questions", "d", "local", "{}"), [])])
    store.link_traces_to_run([one.trace_id], one.interaction_id)
    experiment_id = open_deletion(settings).experiments()["chat"]
    queue = store.create_review_queue(experiment_id, name="doubtful", queue_type="custom")
    store.add_items_to_review_queue(queue.queue_id, item_ids=[one.trace_id])
    assert one.interaction_id in dump(settings)

    removed(open_deletion(settings).of_user(ALICE))

    assert one.interaction_id not in dump(settings)


def test_the_files_of_a_run_go_with_it(settings: Settings, tmp_path: Path) -> None:
    (one,), (other,) = of(ALICE, plain()), of(BOB, plain())
    delivered(settings, one, other)
    client = MlflowClient(settings.tracking_uri)
    note = tmp_path / "note.txt"
    note.write_text("about an answer")
    for run_id in (one.interaction_id, other.interaction_id):
        client.log_artifact(run_id, str(note))

    gone = removed(open_deletion(settings).of_user(ALICE))

    assert gone.artifacts == 1
    left = [path for path in (tmp_path / "mlartifacts").rglob("*") if path.is_file()]
    assert [other.interaction_id in str(path) for path in left] == [True]


def test_a_run_stays_whose_files_cannot_be_deleted(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    (one,) = of(ALICE, plain())
    delivered(settings, one)
    MlflowClient(settings.tracking_uri).log_text(one.interaction_id, "about an answer", "note.txt")

    def refuse(*_: Any) -> FileInfo:
        raise PermissionError("read-only file system")

    monkeypatch.setattr(LocalArtifactRepository, "delete_artifacts", refuse)
    with pytest.raises(Unavailable, match="read-only"):
        removed(open_deletion(settings).of_user(ALICE))

    assert logged_ids(settings) == {one.interaction_id}


def test_stopping_after_any_chunk_leaves_every_interaction_whole(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlflow_sql_deletion, "CHUNK", 3)
    logged = [replace(plain(), received_ns=10**18, session=str(number % 4)) for number in range(10)]
    delivered(settings, *logged)
    experiment_id = open_deletion(settings).experiments()["chat"]

    left = 10
    while left:
        (step,) = islice(open_deletion(settings).before(experiment_id, NEVER_MS), 1)
        assert step.interactions == min(3, left)
        left -= step.interactions
        assert len(logged_ids(settings)) == left
    removed(open_deletion(settings).before(experiment_id, NEVER_MS))

    assert MlflowClient(settings.tracking_uri).search_runs([experiment_id]) == []


def test_a_chunk_that_fails_deletes_nothing_of_it(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    delivered(settings, *of(ALICE, plain(), plain()))
    before = content(settings)

    def fail(*_: Any) -> int:
        raise Unavailable("the disk is full")

    monkeypatch.setattr(mlflow_sql_deletion, "delete_traces", fail)
    with pytest.raises(Unavailable, match="disk is full"):
        removed(open_deletion(settings).of_user(ALICE))

    assert content(settings) == before


def test_sums_of_days_are_rebuilt_where_mlflow_keeps_them(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server may be told to keep them in an environment that is not ours."""
    day_ns = 86_400 * 10**9
    one = replace(plain(), received_ns=20_000 * day_ns + 1)
    delivered(settings, *of(ALICE, one))
    store = open_store(settings)
    assert isinstance(store, SqlAlchemyStore)
    experiment_id = open_deletion(settings).experiments()["chat"]
    monkeypatch.setenv("MLFLOW_SQL_TRACE_ROLLUPS_ENABLED", "true")
    assess(settings, one, BOB)
    monkeypatch.delenv("MLFLOW_SQL_TRACE_ROLLUPS_ENABLED")

    removed(open_deletion(settings).of_user(ALICE))

    with closing(sqlite3.connect(settings.data_dir / "mlflow.db")) as database:
        queued = set(database.execute("SELECT * FROM sql_trace_rollup_rebuild_queue").fetchall())
    families = ("trace_metric", "span_cost", "assessment")
    assert queued == {(int(experiment_id), "2024-10-04", family) for family in families}


def test_copies_in_evaluation_datasets_are_deleted(settings: Settings) -> None:
    (one,) = of(ALICE, plain())
    delivered(settings, one)
    store = open_store(settings)
    dataset = store.create_dataset("hard ones", experiment_ids=[open_deletion(settings).experiments()["chat"]])
    source = {"source_type": "TRACE", "source_data": {"trace_id": one.trace_id}}
    store.upsert_dataset_records(dataset.dataset_id, [{"inputs": {"q": "?"}, "source": source}])

    assert removed(open_deletion(settings).of_user(ALICE)).copies == 1


def test_a_tracking_server_is_asked_to_delete(tmp_path: Path, mlflow_template: Path) -> None:
    with MlflowServer(tmp_path, mlflow_template) as server:
        settings = Settings(tmp_path / "client", mlflow_tracking_uri=server.url)
        old, young, hers = (*of(BOB, replace(plain(), received_ns=10**18), plain()), *of(ALICE, plain()))
        garbled = [replace(unreadable(), received_ns=10**18, endpoint=name) for name in ("chat", "other")]
        delivered(settings, old, young, hers, *garbled)
        assess(settings, young, ALICE)
        deletion = open_deletion(settings)
        assert deletion.marks_only

        assert removed(deletion.before(deletion.experiments()["chat"], 10**12 + 1)).interactions == 1
        assert deletion.count_before(deletion.experiments()["_rejected"], 10**12 + 1, "chat").interactions == 1
        assert removed(deletion.before(deletion.experiments()["_rejected"], 10**12 + 1, "chat")).interactions == 1
        gone = removed(deletion.of_user(ALICE))

        assert (gone.runs, gone.traces, gone.sessions, gone.assessments) == (1, 1, 1, 1)
        assert deletion.count_of_user(ALICE) == Removed()
        assert logged_ids(settings) == {young.interaction_id, garbled[1].interaction_id}
