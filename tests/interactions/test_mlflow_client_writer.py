"""The client writer, through a real tracking server behind a proxy that fails: once each, whatever breaks, and soon."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run, ViewType

from llmops.errors import Unavailable
from llmops.interactions.mlflow_client_writer import ClientWriter
from llmops.interactions.mlflow_server import TrackingServer
from llmops.interactions.mlflow_store import Experiments, open_store
from llmops.interactions.mlflow_writer import Mapped
from llmops.interactions.record import Interaction, new_id
from llmops.interactions.sink import Delivered, Outcome, Refused, Retry
from llmops.settings import Settings
from tests.interactions.deliveries import leased
from tests.interactions.records import fallback, plain
from tests.tracking import Front, MlflowServer, Turnstile, answer, at_most, cut, gathered, held

CREATE, VALUES, TRACE, SPANS, END = "runs/create", "runs/log-batch", "3.0/mlflow/traces", "v1/traces", "runs/update"
CALLS = (CREATE, VALUES, TRACE, SPANS, END)
LOOKUP = "runs/search"
HTML = "<html><body>please log in</body></html>"


@pytest.fixture(scope="module")
def running(mlflow_template: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    """One server for all tests here."""
    folder = tmp_path_factory.mktemp("server")
    with MlflowServer(folder, mlflow_template) as server, Front(server.url) as front:
        yield front


@pytest.fixture
def front(running: Front) -> Iterator[Front]:
    """The way to the server, in good order."""
    running.heal()
    yield running
    running.heal()


class Shipping:
    """One process that writes into an experiment of its own through the front."""

    def __init__(self, url: str, experiment: str, timeout_s: float = 20.0) -> None:
        store = TrackingServer(url, timeout_s)
        self.writer = ClientWriter(store)
        self.experiment_id = Experiments(store, None).id(experiment)

    def write(self, interactions: Sequence[Interaction], tries: int = 1) -> list[Outcome]:
        """Deliver a batch."""
        return self.writer.write(self.experiment_id, [Mapped.of(one) for one in leased(interactions, tries)])

    def delivered(self, interactions: Sequence[Interaction], tries: int = 2) -> None:
        """Deliver a batch that arrives."""
        assert self.write(interactions, tries) == [Delivered()] * len(interactions)


@pytest.fixture
def shipping(front: Front) -> Shipping:
    """A process that has made its experiment."""
    shipping = Shipping(front.url, f"llmops/{new_id()}")
    front.heal()
    return shipping


def again(shipping: Shipping, front: Front, process: str) -> Shipping:
    """Who delivers again: the same process, or one that knows nothing."""
    if process == "same":
        return shipping
    fresh = Shipping(front.url, "llmops/unused")
    fresh.experiment_id = shipping.experiment_id
    return fresh


def alone(count: int = 2) -> list[Interaction]:
    """Interactions without a session, whose run would be made first."""
    return [replace(fallback() if index % 2 else plain(), session=None) for index in range(count)]


def stored(shipping: Shipping, front: Front) -> list[Run]:
    """Every run of the experiment, deleted ones too."""
    return list(MlflowClient(front.url).search_runs([shipping.experiment_id], run_view_type=ViewType.ALL))


def assert_whole(shipping: Shipping, front: Front, interactions: Sequence[Interaction]) -> None:
    """There is one complete run and one complete trace for each, and nothing else."""
    client = MlflowClient(front.url)
    runs = {run.data.tags.get("llmops.interaction_id"): run for run in stored(shipping, front)}
    assert sorted(key for key in runs if key) == sorted(one.interaction_id for one in interactions)
    assert len([run for run in stored(shipping, front) if "llmops.session" not in run.data.tags]) == len(interactions)
    for one in interactions:
        run = runs[one.interaction_id]
        assert (run.info.status, run.data.metrics["total_tokens"], run.data.params["model"]) == (
            "FINISHED",
            18,
            "gpt-4o-mini",
        )
        trace = client.get_trace(one.trace_id)
        assert trace.info.trace_metadata["mlflow.sourceRun"] == run.info.run_id
        assert len(trace.data.spans) == 1 + len(one.attempts)


@pytest.mark.parametrize("process", ["same", "new"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("call", CALLS)
def test_a_call_whose_answer_is_lost_is_done_once(
    shipping: Shipping, front: Front, call: str, after: bool, process: str
) -> None:
    interactions = alone()
    front.play(call, cut(after=after))
    with pytest.raises(Unavailable, match="cannot be reached"):
        shipping.write(interactions)

    again(shipping, front, process).delivered(interactions)

    assert_whole(shipping, front, interactions)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("call", [LOOKUP, CREATE, END])
def test_a_session_whose_making_was_cut_is_made_once(shipping: Shipping, front: Front, call: str, after: bool) -> None:
    interactions = [plain(), plain(), plain()]
    front.play(call, cut(after=after))
    with pytest.raises(Unavailable):
        shipping.write(interactions)

    shipping.delivered(interactions)

    (session,) = [run for run in stored(shipping, front) if "llmops.session" in run.data.tags]
    children = [run for run in stored(shipping, front) if run is not session]
    assert session.info.status == "FINISHED"
    assert {run.data.tags.get("mlflow.parentRunId") for run in children} == {None, session.info.run_id}
    assert_whole(shipping, front, interactions)


def test_a_lookup_that_is_cut_makes_no_second_run(shipping: Shipping, front: Front) -> None:
    interactions = alone(1)
    front.play(CREATE, cut(after=True))
    front.play(LOOKUP, cut(after=False))
    for tries in (1, 2):
        with pytest.raises(Unavailable):
            shipping.write(interactions, tries)

    shipping.delivered(interactions, tries=3)

    assert_whole(shipping, front, interactions)


def test_a_run_that_is_made_late_is_found(front: Front) -> None:
    """The server was still at it when we gave up: the wait is long enough for it to come to an end."""
    shipping = Shipping(front.url, f"llmops/{new_id()}", timeout_s=0.5)
    interactions, go = alone(1), threading.Event()
    front.play(CREATE, held(go))
    with pytest.raises(Unavailable, match=r"no answer in 0\.5 s") as caught:
        shipping.write(interactions)
    go.set()
    front.wait_idle()

    again(shipping, front, "new").delivered(interactions)

    assert caught.value.retry_after_s == 1
    assert_whole(shipping, front, interactions)


def test_eight_calls_are_on_their_way_at_once_and_no_more(shipping: Shipping, front: Front) -> None:
    interactions = alone(16)
    for call in (CREATE, VALUES, TRACE, END):
        front.always(call, gathered(threading.Barrier(8)))

    shipping.delivered(interactions, tries=1)

    assert front.most_at_once == 8
    assert front.seen(SPANS) == 1
    assert front.seen(LOOKUP) == 0


class OneThread:
    """MLflow's own store, which notes who calls it."""

    def __init__(self, store: Any, threads: set[int]) -> None:
        self._store, self._threads = store, threads

    def __getattr__(self, name: str) -> Any:
        self._threads.add(threading.get_ident())
        return getattr(self._store, name)


def test_a_database_is_written_by_one_thread(settings: Settings) -> None:
    store, threads = open_store(settings), set[int]()
    experiment_id = Experiments(store, settings.artifact_root).id("llmops/chat")
    batch = [Mapped.of(one) for one in leased(alone(16))]

    outcomes = ClientWriter(OneThread(store, threads)).write(experiment_id, batch)

    assert outcomes == [Delivered()] * 16
    assert threads == {threading.get_ident()}


def test_threads_that_meet_at_a_session_make_one_run(shipping: Shipping, front: Front) -> None:
    interactions = [plain() for _ in range(16)]

    shipping.delivered(interactions, tries=1)

    (session,) = [run for run in stored(shipping, front) if "llmops.session" in run.data.tags]
    assert session.info.status == "FINISHED"
    assert front.seen(CREATE) == 17
    assert_whole(shipping, front, interactions)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("status", [429, 503])
def test_a_server_that_asks_to_wait_is_given_the_time(shipping: Shipping, front: Front, call: str, status: int) -> None:
    interactions = alone()
    front.always(call, answer(status, "later", Retry_After="37"))

    with pytest.raises(Unavailable, match=f"answered {status}") as caught:
        shipping.write(interactions)
    front.heal()
    shipping.delivered(interactions)

    assert caught.value.retry_after_s == 37
    assert_whole(shipping, front, interactions)


@pytest.mark.parametrize(
    ("header", "least", "most"),
    [
        ("0", 0, 0),
        (format_datetime(datetime.now(UTC) + timedelta(seconds=3500), usegmt=True), 1, 3500),
        (format_datetime(datetime.now(UTC) - timedelta(days=1), usegmt=True), 0, 0),
        ("31536000", 3600, 3600),
        ("soon", 2, 2),
        ("", 2, 2),
    ],
    ids=["now", "a date", "a date that is past", "a year", "no number", "nothing"],
)
def test_every_way_to_ask_for_time_is_understood(
    shipping: Shipping, front: Front, header: str, least: int, most: int
) -> None:
    front.always(CREATE, answer(429, "later", Retry_After=header))

    with pytest.raises(Unavailable) as caught:
        shipping.write(alone(1))

    assert least <= (caught.value.retry_after_s or 0) <= most


@pytest.mark.parametrize("leave", [3, 10])
def test_a_server_that_lets_few_calls_through_gets_none_of_them_twice(
    shipping: Shipping, front: Front, leave: int
) -> None:
    """However few they are, and fewer than a batch has: each delivery goes on where the last one had to stop."""
    interactions, turnstile = [replace(plain(), session=str(index)) for index in range(6)], Turnstile()
    front.always("", turnstile)
    outcomes: list[Outcome] = []
    tries = 0
    while not outcomes:
        tries += 1
        assert tries < 6 * 9
        turnstile.allow(leave)
        with suppress(Unavailable):
            outcomes = shipping.write(interactions, tries)

    assert outcomes == [Delivered()] * 6
    passed = {call: sum(count for path, count in turnstile.passed.items() if path.endswith(call)) for call in CALLS}
    assert passed == {CREATE: 12, VALUES: 6, TRACE: 6, SPANS: 1, END: 12}
    front.heal()
    assert_whole(shipping, front, interactions)


def test_a_server_that_was_away_gets_everything_once(shipping: Shipping, front: Front) -> None:
    interactions = alone(4)
    front.away()
    for tries in (1, 2, 3):
        with pytest.raises(
            Unavailable, match=r"MLflow at http://127\.0\.0\.1:\d+ cannot be reached: Connection refused"
        ):
            shipping.write(interactions, tries)

    front.back()
    shipping.delivered(interactions, tries=4)

    assert_whole(shipping, front, interactions)


def test_a_record_the_server_forgot_is_looked_up_again(shipping: Shipping, front: Front) -> None:
    """Somebody put an older database back while we remembered a run: what we remember is not believed twice."""
    interactions = alone(1)
    front.play(VALUES, answer(503))
    with pytest.raises(Unavailable):
        shipping.write(interactions)
    gone = '{"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "Run not found"}'
    front.play(VALUES, answer(404, gone, "application/json"))

    (outcome,) = shipping.write(interactions, tries=2)
    before = front.seen(LOOKUP)
    shipping.delivered(interactions, tries=3)

    assert isinstance(outcome, Retry)
    assert front.seen(LOOKUP) == before + 1
    assert_whole(shipping, front, interactions)


def test_bodies_larger_than_a_proxy_takes_keep_no_other(shipping: Shipping, front: Front) -> None:
    """nginx takes 1 MiB unless told otherwise: a batch of more goes in pieces, one record of more is refused."""
    large = replace(alone(1)[0], request=f'{{"messages": "{"x" * 1_500_000}"}}')
    small = [replace(one, request=f'{{"messages": "{"x" * 300_000}"}}') for one in alone(4)]
    front.always(SPANS, at_most(1 << 20))

    first = shipping.write([large, *small])
    pieces = front.seen(SPANS)
    second = shipping.write([large], tries=2)

    assert isinstance(first[0], Retry)
    assert first[1:] == [Delivered()] * 4
    assert 2 <= pieces <= 4
    assert isinstance(second[0], Refused)
    assert "413" in second[0].reason


@pytest.mark.parametrize("status", [400, 422])
def test_one_record_the_server_refuses_keeps_no_other(shipping: Shipping, front: Front, status: int) -> None:
    """The call with the spans of all fails, and those of the first; the others arrive one by one."""
    interactions = alone(3)
    refusal = answer(status, '{"detail": "Cannot convert OpenTelemetry span to MLflow span"}', "application/json")
    if status == 400:
        refusal = answer(400, '{"error_code": "INVALID_PARAMETER_VALUE", "message": "no"}', "application/json")
    front.play(SPANS, refusal, refusal)

    outcomes = shipping.write(interactions)

    assert [type(outcome) for outcome in outcomes] == [Retry, Delivered, Delivered]


@pytest.mark.parametrize(
    ("call", "fault", "said"),
    [
        (CREATE, answer(401, HTML), "answered 401, it does not know us: set MLFLOW_TRACKING_TOKEN"),
        (END, answer(403, '{"error_code": "PERMISSION_DENIED"}', "application/json"), "does not let us write"),
        (VALUES, answer(502, "<h1>502 Bad Gateway</h1>"), "answered 502"),
        (TRACE, answer(200, HTML), "answered 200 with text/html, which is not MLflow's: is the URI right"),
        (SPANS, answer(200, HTML), "answered 200 with text/html, which is not MLflow's: is the URI right"),
        (CREATE, answer(200, "", ""), "answered 200 with nothing, which is not MLflow's"),
        (CREATE, answer(200, "{}", "application/json"), "a run without an id"),
        (CREATE, answer(404, HTML), "answered 404 with text/html, which is not MLflow's"),
        (TRACE, answer(404, '{"error_code": "ENDPOINT_NOT_FOUND"}', "application/json"), "which is not MLflow's"),
        (SPANS, answer(404, HTML), "cannot keep traces: it has to be version 3.4 or later, with a database"),
        (SPANS, answer(501, '{"detail": "not supported by FileStore"}', "application/json"), "cannot keep traces"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_and_records_wait(
    shipping: Shipping, front: Front, call: str, fault: Any, said: str
) -> None:
    interactions = alone()
    front.always(call, fault)

    with pytest.raises(Unavailable) as caught:
        shipping.write(interactions)
    front.heal()
    shipping.delivered(interactions)

    assert said in caught.value.message
    assert "\n" not in caught.value.message
    assert "please log in" not in caught.value.message
    assert_whole(shipping, front, interactions)


def test_a_failure_of_the_servers_database_tells_no_prompt(
    shipping: Shipping, front: Front, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    statement = "(OperationalError) database is locked\\n[SQL: INSERT]\\n[parameters: ('What is a spool?')]"
    front.always(
        VALUES, answer(500, f'{{"error_code": "INTERNAL_ERROR", "message": "{statement}"}}', "application/json")
    )

    with pytest.raises(Unavailable) as caught:
        shipping.write(alone(1))

    assert "database is locked" in caught.value.message
    told = f"{caught.value.message}{caplog.text}{''.join(capfd.readouterr())}"
    assert "spool?" not in told
