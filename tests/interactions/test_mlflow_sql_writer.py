"""The SQL writer: it leaves what MLflow's own client leaves, row by row and as MLflow reads it, exactly once."""

import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as limits
from hypothesis import strategies as st
from mlflow import MlflowClient
from mlflow.entities import AssessmentSource, AssessmentSourceType

from llmops.errors import Unavailable
from llmops.interactions.feedback import Feedback
from llmops.interactions.mlflow_client_writer import ClientWriter
from llmops.interactions.mlflow_feedback import FeedbackSink
from llmops.interactions.mlflow_store import Experiments, open_store
from llmops.interactions.mlflow_writer import Mapped
from llmops.interactions.record import Interaction, new_id
from llmops.interactions.sink import Delivered, Refused
from llmops.interactions.spool import Leased
from llmops.settings import Settings
from tests.interactions.answers import read_back
from tests.interactions.deliveries import (
    Killed,
    Mortal,
    all_runs,
    delivered,
    delivered_by_client,
    leased,
    opened,
    runs,
)
from tests.interactions.odd_records import FIELDS, odd_ones
from tests.interactions.records import ANSWER, abandoned, embedded, fallback, one_of_each, plain, streamed
from tests.interactions.stores import content, new_stores

KINDS = ("sqlite", "postgresql")
CALLS = ("create_run", "log_batch", "start_trace", "log_spans", "update_run_info")


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path, mlflow_template: Path) -> Iterator[Settings]:
    """A new database of each kind."""
    with new_stores(request.param, tmp_path, mlflow_template) as (settings,):
        yield settings


@pytest.fixture(params=KINDS)
def pair(request: pytest.FixtureRequest, tmp_path: Path, mlflow_template: Path) -> Iterator[list[Settings]]:
    """Two new databases of the same kind."""
    with new_stores(request.param, tmp_path, mlflow_template, 2) as both:
        yield both


def test_both_writers_leave_the_same_rows(pair: list[Settings]) -> None:
    interactions = [*one_of_each(), *odd_ones()]

    assert delivered(pair[0], *interactions) == [Delivered()] * len(interactions)
    assert delivered_by_client(pair[1], *interactions) == [Delivered()] * len(interactions)

    assert content(pair[0]) == content(pair[1])


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_is_sent_both_writers_leave_the_same_rows(kind: str, tmp_path: Path, mlflow_template: Path) -> None:
    with new_stores(kind, tmp_path, mlflow_template, 2) as pair:
        sinks = (opened(pair[0]), opened(pair[1], frozenset()))

        @limits(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
        @given(st.lists(FIELDS, min_size=1, max_size=4))
        def compare(drafts: Sequence[dict[str, Any]]) -> None:
            interactions = [replace(plain(), **draft) for draft in drafts]

            answers = [sink.deliver(leased(interactions)) for sink in sinks]

            assert answers[0] == answers[1]
            assert content(pair[0]) == content(pair[1])

        compare()


def test_mlflow_reads_back_the_same_of_both_writers(pair: list[Settings]) -> None:
    # No two at the same time, or their order would be anybody's guess.
    interactions = [
        replace(one, received_ns=one.received_ns + number * 10**8, latency_ms=one.latency_ms + number)
        for number, one in enumerate([*one_of_each(), *odd_ones()])
    ]
    delivered(pair[0], *interactions)
    delivered_by_client(pair[1], *interactions)
    opinions = [feedback for one in interactions[:4] for feedback in judgements(one)]
    for settings in pair:
        sink = FeedbackSink(settings)
        sink.open()
        assert set(sink.deliver([Leased(one, 1, 1, Path("worker-0.db")) for one in opinions])) == {Delivered()}

    told = [read_back(settings, interactions) for settings in pair]

    assert told[0].keys() == told[1].keys()
    for question, answer in told[0].items():
        assert answer == told[1][question], question
    _, (_, _, judged) = told[0][f"trace {interactions[0].interaction_id}"]
    assert [one["assessment_name"] for one in judged] == ["0", "1", "2", "3"]


def judgements(one: Interaction) -> list[Feedback]:
    """One opinion of each kind, for the endpoint that answered."""
    values: tuple[bool | int | float | str, ...] = (True, 7, 0.25, "mehr, bitte ☕")
    return [
        Feedback(new_id(), one.interaction_id, str(number), value, "because", "ada", 10**12 + number, (one.endpoint,))
        for number, value in enumerate(values)
    ]


def test_writing_again_changes_nothing(store: Settings) -> None:
    """Not even what people have changed in between."""
    interactions = [*one_of_each(), *odd_ones()]
    sink = opened(store)
    sink.deliver(leased(interactions[:10]))
    MlflowClient(store.tracking_uri).set_tag(interactions[0].interaction_id, "outcome", "mine")
    MlflowClient(store.tracking_uri).delete_tag(interactions[1].interaction_id, "outcome")
    sink.deliver(leased(interactions[5:]))
    before = content(store)

    for tries in (1, 2):
        assert sink.deliver(leased(interactions, tries)) == [Delivered()] * len(interactions)
        assert delivered(store, *interactions, tries=tries) == [Delivered()] * len(interactions)

    assert content(store) == before
    assert len(runs(store)) == len(interactions)


def test_the_run_has_the_id_of_the_interaction(store: Settings) -> None:
    interaction = plain()
    sink = opened(store)

    sink.deliver(leased([interaction]))

    assert sink.chooses_run_ids
    assert MlflowClient(store.tracking_uri).get_run(interaction.interaction_id).info.status == "FINISHED"
    assert MlflowClient(store.tracking_uri).get_trace(interaction.trace_id).info.trace_metadata["mlflow.sourceRun"] == (
        interaction.interaction_id
    )


@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("call", CALLS)
def test_what_the_client_writer_began_it_finishes(settings: Settings, call: str, done: bool) -> None:
    begun, new = [replace(plain(), session=None), replace(fallback(), session=None)], [streamed(), embedded()]
    inner = open_store(settings)
    experiment_id = Experiments(inner, settings.artifact_root).id("llmops/chat")
    with pytest.raises(Killed):
        ClientWriter(Mortal(inner, call, done=done)).write(experiment_id, [Mapped.of(one) for one in leased(begun)])

    assert delivered(settings, new[0], *begun, new[1], tries=2) == [Delivered()] * 4

    ids = [run.data.tags["llmops.interaction_id"] for run in runs(settings)]
    assert sorted(ids) == sorted(one.interaction_id for one in [*begun, *new])
    assert {run.info.status for run in runs(settings)} == {"FINISHED"}
    for run in runs(settings):
        trace = MlflowClient(settings.tracking_uri).get_trace(f"tr-{run.data.tags['llmops.interaction_id']}")
        assert trace.info.trace_metadata["mlflow.sourceRun"] == run.info.run_id
        assert len(trace.data.spans) > 1


def test_what_the_sql_writer_wrote_the_client_writer_leaves(store: Settings) -> None:
    interactions = [*one_of_each(), *odd_ones()]
    delivered(store, *interactions)
    before = content(store)

    assert delivered_by_client(store, *interactions, tries=2) == [Delivered()] * len(interactions)

    assert content(store) == before


def test_a_session_the_client_writer_began_goes_on(store: Settings) -> None:
    delivered_by_client(store, plain(), replace(plain(), session="another"))
    delivered(store, streamed(), replace(plain(), session="a third"))
    delivered_by_client(store, abandoned(), replace(plain(), session="a third"))

    parents = [run for run in all_runs(store) if "llmops.session" in run.data.tags]
    assert sorted(run.data.tags["session"] for run in parents) == ["a third", "another", "session-1"]
    by_session = {run.data.tags["session"]: run.info.run_id for run in parents}
    assert all(run.data.tags["mlflow.parentRunId"] == by_session[run.data.tags["session"]] for run in runs(store))


def test_two_servers_make_the_same_session(store: Settings) -> None:
    one, other = opened(store), opened(store)
    for _ in range(2):
        one.deliver(leased([plain(), replace(plain(), session="new")]))
        other.deliver(leased([replace(plain(), session="new"), plain()]))

    assert len([run for run in all_runs(store) if "llmops.session" in run.data.tags]) == 2
    assert len(runs(store)) == 8


@pytest.mark.parametrize("for_ever", [False, True], ids=["soft", "hard"])
def test_an_experiment_somebody_deleted_in_between_is_there_again(store: Settings, for_ever: bool) -> None:
    sink = opened(store)
    sink.deliver(leased([plain(), embedded()]))
    client = MlflowClient(store.tracking_uri)
    experiment_id = client.get_experiment_by_name("llmops/chat").experiment_id
    client.delete_experiment(experiment_id)
    if for_ever:
        open_store(store)._hard_delete_experiment(experiment_id)  # As `mlflow gc` does.
    interactions = [plain(), embedded()]

    assert sink.deliver(leased(interactions)) == [Delivered()] * 2

    assert client.get_experiment_by_name("llmops/chat").lifecycle_stage == "active"
    assert {one.interaction_id for one in interactions} <= {run.info.run_id for run in runs(store)}


def test_one_record_that_is_refused_does_not_keep_the_others(store: Settings) -> None:
    batch = [plain() for _ in range(9)]
    batch[4] = replace(plain(), interaction_id=new_id() + "0")

    outcomes = opened(store).deliver(leased(batch))

    assert [isinstance(outcome, Refused) for outcome in outcomes] == [number == 4 for number in range(9)]
    assert len(runs(store)) == 8


def test_a_database_that_goes_away_is_waited_for(tmp_path: Path, mlflow_template: Path) -> None:
    with new_stores("postgresql", tmp_path, mlflow_template) as (settings,):
        sink = opened(settings)
        sink.deliver(leased([plain()]))

    with pytest.raises(Unavailable, match=r"^MLflow: "):
        sink.deliver(leased([plain()]))


FULL = """
import resource, signal, sys
from pathlib import Path
from llmops.errors import Unavailable
from llmops.settings import Settings
from tests.interactions.deliveries import leased, opened
from tests.interactions.records import plain

sink = opened(Settings(data_dir=Path(sys.argv[1])))
sink.deliver(leased([plain()]))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))
batch = [plain() for _ in range(500)]
try:
    sink.deliver(leased(batch))
except Unavailable as err:
    print(err.message)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
sink.deliver(leased(batch, tries=2))
"""


def test_a_full_disk_is_waited_for(settings: Settings) -> None:
    command = [sys.executable, "-c", FULL, str(settings.data_dir)]

    said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout

    assert said.startswith("MLflow: (sqlite3.OperationalError) ")
    assert len(runs(settings)) == 501


WRITE = """
import sys
from pathlib import Path
from llmops.interactions.record import Interaction
from llmops.settings import Settings
from tests.interactions.deliveries import leased, opened

uri = sys.argv[2] or None
sink = opened(Settings(data_dir=Path(sys.argv[1]), mlflow_tracking_uri=uri))
records = [Interaction.decode(line) for line in Path(sys.argv[3]).read_bytes().splitlines()]
print("ready", flush=True)
for start in range(0, len(records), 20):
    sink.deliver(leased(records[start : start + 20], int(sys.argv[4])))
    print(start, flush=True)
"""


def test_a_writer_that_is_killed_anywhere_leaves_all_or_nothing(pair: list[Settings], tmp_path: Path) -> None:
    killed, calm = pair
    interactions = [replace(one, session=f"s{number % 7}") for number in range(40) for one in one_of_each()]
    records = tmp_path / "records"
    records.write_bytes(b"\n".join(one.encode() for one in interactions))
    uri = killed.mlflow_tracking_uri or ""
    for tries in range(1, 4):
        command = [sys.executable, "-c", WRITE, str(killed.data_dir), uri, str(records), str(tries)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            # Somewhere in a batch: after so many are done, and a while that is different each time.
            for _ in range(random.randint(1, 6)):
                process.stdout.readline()
            try:
                process.wait(random.uniform(0, 0.05))
            except subprocess.TimeoutExpired:
                os.kill(process.pid, signal.SIGKILL)
        whole = {run.data.tags["llmops.interaction_id"] for run in runs(killed)}
        assert len(whole) == len(runs(killed))

    assert set(delivered(killed, *interactions, tries=2)) == {Delivered()}
    assert set(delivered(calm, *interactions)) == {Delivered()}

    assert content(killed) == content(calm)


def test_what_mlflow_and_people_do_with_runs_works_on_ours(store: Settings) -> None:
    interaction, other = replace(plain(), cost_usd=0.5), plain()
    delivered(store, interaction, other)
    client, run_id, trace_id = MlflowClient(store.tracking_uri), interaction.interaction_id, interaction.trace_id
    inner = open_store(store)

    client.set_tag(run_id, "reviewed", "yes")
    client.log_metric(run_id, "score", 0.5)
    client.log_param(run_id, "late", "yes")
    client.set_trace_tag(trace_id, "reviewed", "yes")
    client.link_traces_to_run([trace_id], other.interaction_id)
    mlflow.set_tracking_uri(store.tracking_uri)
    try:
        source = AssessmentSource(AssessmentSourceType.HUMAN, "ada")
        mlflow.log_feedback(trace_id=trace_id, name="good", value=True, source=source)
    finally:
        mlflow.set_tracking_uri(None)
    client.delete_run(other.interaction_id)

    run, trace = client.get_run(run_id), client.get_trace(trace_id)
    assert (run.data.tags["reviewed"], run.data.metrics["score"], run.data.params["late"]) == ("yes", 0.5, "yes")
    assert trace.info.tags["reviewed"] == "yes"
    assert [(one.name, one.value) for one in trace.info.assessments] == [("good", True)]
    assert client.get_run(other.interaction_id).info.lifecycle_stage == "deleted"
    client.restore_run(other.interaction_id)
    assert client.delete_traces(run.info.experiment_id, trace_ids=[trace_id]) == 1
    inner._hard_delete_run(run_id)  # As `mlflow gc` does.
    assert [one.info.run_id for one in runs(store)] == [other.interaction_id]


def test_figures_of_past_days_are_made_anew(pair: list[Settings], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where MLflow keeps such: interactions that come late, after an hour away, belong to a day that is over."""
    monkeypatch.setenv("MLFLOW_SQL_TRACE_ROLLUPS_ENABLED", "true")
    late = [replace(one, received_ns=one.received_ns - 3 * 86_400 * 10**9) for one in one_of_each()]

    delivered(pair[0], *late)
    delivered_by_client(pair[1], *late)

    queued = [content(settings)["sql_trace_rollup_rebuild_queue"] for settings in pair]
    assert len(queued[0]) > 0
    assert [len(queue) for queue in queued] == [len(queued[0])] * 2


def test_answers_of_many_endpoints_arrive_together(store: Settings) -> None:
    interactions = [replace(plain(f"endpoint-{number % 20}"), response=ANSWER) for number in range(200)]

    assert delivered(store, *interactions) == [Delivered()] * 200

    by_experiment: dict[str, int] = {}
    for run in runs(store):
        by_experiment[run.info.experiment_id] = by_experiment.get(run.info.experiment_id, 0) + 1
    assert list(by_experiment.values()) == [10] * 20
