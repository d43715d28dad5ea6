"""Chat sessions in MLflow: one parent run for each, whatever happens, and never taken for an interaction."""

from dataclasses import replace

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from llmops.errors import NotFound
from llmops.interactions.logged import Wanted
from llmops.interactions.mlflow_client_writer import ClientWriter
from llmops.interactions.mlflow_entities import session_entities
from llmops.interactions.mlflow_reader import MlflowReader
from llmops.interactions.mlflow_sessions import Sessions
from llmops.interactions.mlflow_store import Experiments, open_store
from llmops.interactions.mlflow_writer import Mapped
from llmops.interactions.sink import Delivered
from llmops.settings import Settings
from tests.interactions.deliveries import Killed, Mortal, all_runs, delivered, leased, runs
from tests.interactions.records import failed, plain, streamed


def sessions(settings: Settings) -> list[Run]:
    return [run for run in all_runs(settings) if "llmops.session" in run.data.tags]


def parents(settings: Settings) -> set[str | None]:
    """What the runs of interactions name as their parent."""
    return {run.data.tags.get("mlflow.parentRunId") for run in runs(settings)}


def test_the_runs_of_a_session_have_one_parent_over_restarts(settings: Settings) -> None:
    delivered(settings, plain(), streamed())
    delivered(settings, failed())

    (parent,) = sessions(settings)
    assert len(runs(settings)) == 3
    assert parents(settings) == {parent.info.run_id}
    assert (parent.info.run_name, parent.info.status, parent.info.user_id) == (
        "session-1",
        "FINISHED",
        "ada@example.com",
    )
    assert parent.data.tags["session"] == "session-1"
    assert "llmops.interaction_id" not in parent.data.tags


def test_a_session_has_a_parent_in_each_experiment(settings: Settings) -> None:
    delivered(settings, plain("one"), plain("two"), plain("one"))

    experiments = {run.info.run_id: run.info.experiment_id for run in sessions(settings)}
    assert len(set(experiments.values())) == len(experiments) == 2
    assert all(experiments[run.data.tags["mlflow.parentRunId"]] == run.info.experiment_id for run in runs(settings))


def test_without_a_session_there_is_no_parent(settings: Settings) -> None:
    delivered(settings, replace(plain(), session=None))

    assert sessions(settings) == []
    assert parents(settings) == {None}


def test_a_redelivery_changes_no_parent(settings: Settings) -> None:
    interactions = [plain(), replace(plain(), session="another")]
    delivered(settings, *interactions)
    before = [run.to_dictionary() for run in all_runs(settings)]

    delivered(settings, *interactions, tries=2)

    assert [run.to_dictionary() for run in all_runs(settings)] == before


@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("call", ["search_runs", "create_run", "update_run_info"])
def test_a_session_whose_maker_was_killed_is_completed(settings: Settings, call: str, done: bool) -> None:
    interaction = plain()
    store = open_store(settings)
    experiment_id = Experiments(store, settings.artifact_root).id("llmops/chat")
    with pytest.raises(Killed):
        ClientWriter(Mortal(store, call, done=done)).write(experiment_id, [Mapped.of(leased([interaction])[0])])

    delivered(settings, interaction, tries=2)

    (parent,) = sessions(settings)
    assert parent.info.status == "FINISHED"
    assert parents(settings) == {parent.info.run_id}


@pytest.mark.parametrize("session", ["it's", """'"'""", "100 %", "l" * 10_000, "été 🧵", "\u0000", " "])
def test_every_text_can_name_a_session(settings: Settings, session: str) -> None:
    """Among them those that MLflow's filters cannot hold."""
    for _ in range(2):
        assert delivered(settings, replace(plain(), session=session)) == [Delivered()]

    (parent,) = sessions(settings)
    assert parent.info.run_name == session[:250].replace("\0", "\N{REPLACEMENT CHARACTER}")
    assert parents(settings) == {parent.info.run_id}


def test_a_parent_somebody_deleted_is_not_brought_back(settings: Settings) -> None:
    delivered(settings, plain())
    (parent,) = sessions(settings)
    MlflowClient(settings.tracking_uri).delete_run(parent.info.run_id)

    delivered(settings, plain())

    assert [run.info.lifecycle_stage for run in sessions(settings)] == ["deleted"]


def test_a_session_that_was_forgotten_is_found_again(settings: Settings) -> None:
    store = open_store(settings)
    experiment_id = Experiments(store, settings.artifact_root).id("llmops/chat")
    known = Sessions(store, most_known=1)
    names = [session_entities(replace(plain(), session=name)) for name in ("a", "b", "a", "b")]

    ids = [known.run_id(experiment_id, session) for session in names if session]

    assert ids[:2] == ids[2:]
    assert len(sessions(settings)) == 2


def test_who_reads_interactions_meets_no_parent(settings: Settings) -> None:
    interaction = plain()
    delivered(settings, interaction)
    reader = MlflowReader(settings)
    (parent,) = sessions(settings)

    listed = [reader.page(wanted, 10).interactions for wanted in (Wanted(), Wanted(session="session-1"))]
    (figures,) = reader.stats(Wanted())

    assert [[one.interaction_id for one in page] for page in listed] == [[interaction.interaction_id]] * 2
    assert len(reader.find_by_request_id(str(interaction.client_request_id))) == 1
    assert figures.requests == 1
    with pytest.raises(NotFound):
        reader.show(parent.info.run_id)
