"""What was logged, read back: the same through MLflow's API and from the tables of both databases.

The stores are shared by all tests of this file; each test has an endpoint of its own.
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import AssessmentSource, Feedback
from mlflow.tracing.client import TracingClient

from llmops.errors import InvalidParameter, NotFound
from llmops.interactions.logged import Wanted
from llmops.interactions.logged_stats import Period
from llmops.interactions.mlflow_reader import MlflowReader
from llmops.interactions.mlflow_schema import TESTED
from llmops.interactions.record import Interaction, new_id
from llmops.settings import Settings
from tests.interactions.deliveries import delivered, delivered_by_client
from tests.interactions.records import abandoned, attempt, embedded, failed, fallback, plain, streamed, unreadable
from tests.interactions.stores import new_stores
from tests.tracking import MlflowServer

KINDS = ("http", "api", "sqlite", "postgresql")


class Log:
    """A store, and the reader of one kind.

    Args:
        uri: Where it is read; where it is a server's, the same store is written without it, which is faster.
    """

    def __init__(self, settings: Settings, uri: str | None, tested: frozenset[str]) -> None:
        self.settings = settings
        self.reader = MlflowReader(replace(settings, mlflow_tracking_uri=uri), tested=tested)
        self.endpoint = f"chat-{new_id()[-8:]}"

    def add(self, *interactions: Interaction) -> list[Interaction]:
        """Log these under the test's endpoint, but for those of no endpoint."""
        mine = [replace(one, endpoint=self.endpoint) if one.known else one for one in interactions]
        delivered(self.settings, *mine)
        return mine

    def ids(self, **wanted: Any) -> set[str]:
        """The interactions of the test's endpoint that are found."""
        found = self.reader.page(Wanted(**{"endpoint": self.endpoint, **wanted}), 100)
        assert found.token is None
        return {one.interaction_id for one in found.interactions}


@pytest.fixture(scope="module", params=KINDS)
def store(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, mlflow_template: Path
) -> Iterator[tuple[Settings, str | None, frozenset[str]]]:
    folder, kind = tmp_path_factory.mktemp("stores"), request.param
    with ExitStack() as stack:
        if kind == "http":
            settings = Settings(data_dir=folder)
            uri: str | None = stack.enter_context(MlflowServer(folder, mlflow_template)).url
        else:
            database = "postgresql" if kind == "postgresql" else "sqlite"
            (settings,) = stack.enter_context(new_stores(database, folder, mlflow_template))
            uri = settings.mlflow_tracking_uri
        delivered(settings, plain("other"))
        yield settings, uri, frozenset() if kind == "api" else TESTED


@pytest.fixture
def log(store: tuple[Settings, str | None, frozenset[str]]) -> Log:
    return Log(*store)


def at(second: int, **changes: Any) -> Interaction:
    """A plain chat of that second."""
    return replace(plain(), received_ns=(1_700_000_000 + second) * 10**9, **changes)


def test_interactions_are_listed_newest_first_page_by_page(log: Log) -> None:
    logged = log.add(*(at(second) for second in range(5)))
    wanted = Wanted(endpoint=log.endpoint)

    first = log.reader.page(wanted, 3)
    second = log.reader.page(wanted, 3, first.token)

    listed = [one.interaction_id for one in (*first.interactions, *second.interactions)]
    assert listed == [one.interaction_id for one in reversed(logged)]
    assert second.token is None


def test_pages_over_all_endpoints_miss_nothing_of_one_moment(log: Log) -> None:
    logged = log.add(*(replace(at(100), user=log.endpoint) for _ in range(7)))
    found, token = [], None
    while True:
        page = log.reader.page(Wanted(user=log.endpoint), 2, token)
        found += [one.interaction_id for one in page.interactions]
        if (token := page.token) is None:
            break

    assert sorted(found) == sorted(one.interaction_id for one in logged)


def test_an_interaction_comes_back_as_it_was_recorded(log: Log) -> None:
    (logged,) = log.add(replace(streamed(), cost_usd=0.25))
    (found,) = log.reader.page(Wanted(endpoint=log.endpoint), 10).interactions

    assert found.trace_id == logged.trace_id
    assert found.received_ms == logged.received_ns // 1_000_000
    assert (found.endpoint, found.status, found.outcome) == (log.endpoint, 200, "answered")
    assert (found.latency_ms, found.first_token_ms) == (42.5, 17.25)
    assert (found.input_tokens, found.output_tokens, found.cost_usd) == (12, 6, 0.25)
    assert (found.prompt, found.response) == ("What is a spool?", "A reel for thread.")


def test_what_the_client_writer_wrote_is_read_too(log: Log) -> None:
    logged = replace(plain(log.endpoint), user="client")
    delivered_by_client(log.settings, logged)
    log.add(plain())

    assert log.ids(user="client") == {logged.interaction_id}
    assert log.reader.show(logged.interaction_id).attempts == logged.attempts
    assert log.reader.stats(Wanted(endpoint=log.endpoint))[0].requests == 2


FILTERS: list[dict[str, Any]] = [
    {"user": "bob's"},
    {"session": 'a "session"'},
    {"client_request_id": """both ' and " of \\ them"""},
    {"model": "gpt_4o%"},
    {"served_entity": "other"},
    {"provider": "anthropic"},
]


@pytest.mark.parametrize("wanted", FILTERS, ids=lambda wanted: next(iter(wanted)))
def test_a_text_is_found_exactly_whatever_it_is_made_of(log: Log, wanted: dict[str, Any]) -> None:
    ((key, value),) = wanted.items()
    others: list[dict[str, Any]] = [{}, {key: value + "x"}, {key: "gptx4ox"}]
    (logged, *_) = log.add(*(replace(plain(), **changes) for changes in (wanted, *others)))

    assert log.ids(**wanted) == {logged.interaction_id}
    assert log.ids(**{key: f"x' OR '1'='1' -- {value}"}) == set()
    assert log.ids(**{key: value[:-1] + "%"}) == ({logged.interaction_id} if value.endswith("%") else set())


def test_interactions_are_found_by_how_they_ended(log: Log) -> None:
    good, down, gone, slow, cheap = (
        one.interaction_id
        for one in log.add(
            plain(),
            failed(),
            abandoned(),
            replace(failed(), status=504, latency_ms=9000.0),
            replace(plain(), cost_usd=0.002),
        )
    )

    assert log.ids(status="502") == {down}
    assert log.ids(status="5xx") == {down, slow}
    assert log.ids(status="error") == {down, gone, slow}
    assert log.ids(status="abandoned") == {gone}
    assert log.ids(status="answered") == {good, cheap}
    assert log.ids(min_latency_ms=9000) == {slow}
    assert log.ids(min_cost_usd=0.002) == {cheap}
    assert log.ids(min_cost_usd=0.0021) == set()


def test_interactions_are_found_by_when_they_came(log: Log) -> None:
    logged = [one.interaction_id for one in log.add(*(at(second) for second in range(4)))]
    second_ms = 1_700_000_000_000

    assert log.ids(since_ms=second_ms + 1000, until_ms=second_ms + 3000) == set(logged[1:3])
    assert log.ids(since_ms=second_ms + 4000) == set()


def test_an_endpoint_is_looked_for_by_its_whole_name(log: Log) -> None:
    log.add(plain())
    (nowhere,) = log.add(unreadable())
    rejected = log.reader.page(Wanted(endpoint="_rejected"), 100).interactions

    assert nowhere.interaction_id in [one.interaction_id for one in rejected]
    assert log.ids(endpoint="chat-%") == set()
    assert log.ids(endpoint="no'ne") == set()


TEXTS = [
    "needle",
    "NEEDLE",
    'says "hi"',
    "it's 100% _sure_",
    "two\nlines\tand a tab",
    "C:\\temp\\",
    "żółw 漢字 🧵",
    '"temperature":0.5',
]
TOLD = """A needle says "hi": it's 100% _sure_; two\nlines\tand a tab; C:\\temp\\ żółw 漢字 🧵."""


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("ascii_only", [False, True])
@pytest.mark.parametrize("field", ["request", "response"])
def test_a_text_is_found_anywhere_in_a_body(log: Log, text: str, ascii_only: bool, field: str) -> None:
    body = json.dumps({"messages": [{"content": TOLD}], "temperature": 0.5}, ensure_ascii=ascii_only)
    bodies: list[dict[str, Any]] = [{"request": "{}"}, {"request": "{}", field: '{"messages":[]}'}]
    bodies[0][field] = body.replace('": 0', '":0')
    logged, _ = log.add(*(replace(plain(), **changes) for changes in bodies))

    assert log.ids(contains=text) == {logged.interaction_id}
    assert log.ids(contains=text + "x") == set()


def test_what_we_add_to_a_trace_is_not_searched(log: Log) -> None:
    log.add(plain())

    assert log.ids(contains="llmops.interaction_id") == set()
    assert log.ids(contains="databricks") == set()


def test_a_text_is_found_in_a_body_that_is_no_json_and_past_every_preview(log: Log) -> None:
    broken, long = log.add(
        replace(plain(), request='{"messages": [needle'),
        replace(plain(), request=json.dumps({"messages": [{"content": "x" * 50_000 + "needle"}]})),
    )

    assert log.ids(contains="needle") == {broken.interaction_id, long.interaction_id}
    assert [one.requests for one in log.reader.stats(Wanted(endpoint=log.endpoint, contains="needle"))] == [2]


def test_what_holds_a_text_is_listed_page_by_page(log: Log) -> None:
    logged = log.add(*(at(second, response='"needle"' if second % 2 else "{}") for second in range(7)))
    wanted = Wanted(endpoint=log.endpoint, contains="needle")

    first = log.reader.page(wanted, 2)
    second = log.reader.page(wanted, 2, first.token)

    listed = [one.interaction_id for one in (*first.interactions, *second.interactions)]
    assert listed == [one.interaction_id for one in logged[5:0:-2]]
    assert second.token is None


def test_a_page_token_of_nobody_is_said(log: Log) -> None:
    for wanted in (Wanted(), Wanted(contains="needle")):
        with pytest.raises(InvalidParameter, match="token"):
            log.reader.page(wanted, 10, "no token")


def test_a_story_is_found_by_every_id_of_it(log: Log) -> None:
    (logged,) = log.add(fallback())
    (found,) = log.reader.page(Wanted(endpoint=log.endpoint), 1).interactions

    names = (logged.interaction_id, logged.trace_id, found.run_id, logged.interaction_id[:-4], logged.trace_id.upper())
    stories = [log.reader.show(name) for name in names]

    assert all(story == stories[0] for story in stories)
    assert stories[0].interaction == found
    assert stories[0].request == json.loads(logged.request)
    assert stories[0].response == json.loads(str(logged.response))
    assert stories[0].attempts == logged.attempts
    assert stories[0].params["temperature"] == "0.2"


def test_a_story_tells_verdicts_and_opinions(log: Log) -> None:
    verdict = {"name": "pii", "action": "block", "started_ms": 1.0, "duration_ms": 2.5}
    (logged,) = log.add(replace(failed(), guardrails=(verdict,), message="blocked by pii"))
    opinion = Feedback(name="helpful", value=False, source=AssessmentSource("HUMAN", "ada"), rationale="too short")
    opinion.trace_id = logged.trace_id
    TracingClient(log.settings.tracking_uri).log_assessment(logged.trace_id, opinion)

    story = log.reader.show(logged.interaction_id)

    assert story.message == "blocked by pii"
    assert [dict(told) for told in story.guardrails] == [verdict]
    (told,) = story.assessments
    assert (told.name, told.value, told.source, told.rationale) == ("helpful", False, "ada", "too short")


def test_an_id_of_nothing_is_said(log: Log) -> None:
    for name in ("0" * 32, "tr-" + "0" * 32, "no/id", "", "abc", "%%%%", "'); --"):
        with pytest.raises(NotFound, match="flush"):
            log.reader.show(name)


def test_a_slip_in_an_id_is_answered_with_the_nearest(log: Log) -> None:
    (logged,) = log.add(plain())
    slip = logged.interaction_id[:-2] + ("00" if logged.interaction_id[-2:] != "00" else "11")

    with pytest.raises(NotFound, match=f"the nearest id is {logged.interaction_id}"):
        log.reader.show(slip)


def test_the_beginning_of_several_ids_is_said(log: Log) -> None:
    first = new_id()
    log.add(replace(plain(), interaction_id=first[:-4] + "0001"), replace(plain(), interaction_id=first[:-4] + "0002"))

    with pytest.raises(InvalidParameter, match=r"0001.*0002.*say more"):
        log.reader.show(first[:-3] if first[-4] == "0" else first[:-4])


def test_figures_are_right(log: Log) -> None:
    logged = [replace(plain(), latency_ms=float(n), cost_usd=0.5) for n in range(1, 21)]
    log.add(*logged, failed(), abandoned(), replace(embedded(), stream=False, latency_ms=3.0))
    (found,) = log.reader.stats(Wanted(endpoint=log.endpoint))

    assert (found.endpoint, found.period, found.whole) == (log.endpoint, None, True)
    assert (found.requests, found.errors, found.unpriced) == (23, 2, 2)
    assert found.latency_ms == (11.0, 42.5, 42.5)
    assert found.first_token_ms == 17.25
    assert (found.input_tokens, found.output_tokens, found.cost_usd) == (21 * 12 + 2, 21 * 6, 10.0)


def test_figures_are_of_what_is_wanted(log: Log) -> None:
    log.add(*(at(second, user=log.endpoint) for second in range(5)), replace(failed(), user=log.endpoint))
    found = log.reader.stats(Wanted(user=log.endpoint, status="answered", until_ms=1_700_000_003_000))

    assert [(one.endpoint, one.requests, one.errors) for one in found] == [(log.endpoint, 3, 0)]
    assert log.reader.stats(Wanted(user="nobody")) == ()
    assert log.reader.stats(Wanted(endpoint="nowhere")) == ()


def test_figures_come_by_hour_and_day_on_the_clock_of_the_offset(log: Log) -> None:
    hour = 3600
    # 2023-11-14T22:13:20Z; half an hour before, in the same hour, and in the next day on a clock two hours ahead.
    log.add(at(0, latency_ms=1.0), at(600, latency_ms=2.0), at(-hour, latency_ms=4.0))
    hours = log.reader.stats(Wanted(endpoint=log.endpoint), Period("hour", hour * 1000))
    days = log.reader.stats(Wanted(endpoint=log.endpoint), Period("day", 24 * hour * 1000, 2 * hour * 1000))

    assert [(one.period, one.requests, one.latency_ms[0]) for one in hours] == [
        ("2023-11-14T21:00:00+00:00", 1, 4.0),
        ("2023-11-14T22:00:00+00:00", 2, 1.0),
    ]
    assert [(one.period, one.requests) for one in days] == [
        ("2023-11-14T00:00:00+02:00", 1),
        ("2023-11-15T00:00:00+02:00", 2),
    ]


def test_ids_are_listed_as_they_were_received(log: Log) -> None:
    logged = [one.interaction_id for one in log.add(*(at(second) for second in range(4)))]
    wanted = Wanted(endpoint=log.endpoint)

    ids = log.reader.arrived(wanted, 1_700_000_001_000)

    assert ids == logged[1:]
    assert [one.interaction_id for one in log.reader.named(ids[1:])] == logged[2:]


def test_an_incomplete_or_deleted_run_is_not_seen(log: Log) -> None:
    kept, deleted, running = log.add(plain(), plain(), plain())
    client = MlflowClient(log.settings.tracking_uri)
    client.delete_run(log.reader.show(deleted.interaction_id).interaction.run_id)
    client.update_run(log.reader.show(running.interaction_id).interaction.run_id, "RUNNING")

    assert log.ids() == {kept.interaction_id}
    assert log.reader.arrived(Wanted(endpoint=log.endpoint), 0) == [kept.interaction_id]
    assert [one.requests for one in log.reader.stats(Wanted(endpoint=log.endpoint))] == [1]


def test_tables_nobody_tested_are_read_through_the_api(settings: Settings) -> None:
    delivered(settings, replace(plain(), attempts=(attempt(),)))
    read: list[int] = []

    MlflowReader(settings, read.append).stats(Wanted())
    assert read == []

    MlflowReader(settings, read.append, tested=frozenset({"another"})).stats(Wanted())
    assert read == [1]


def test_nothing_logged_yet_is_said_and_makes_nothing(tmp_path: Path) -> None:
    for settings in (
        Settings(data_dir=tmp_path),
        Settings(data_dir=tmp_path, mlflow_tracking_uri=f"sqlite:///{tmp_path}/own.db"),
    ):
        with pytest.raises(NotFound, match="nothing is logged in"):
            MlflowReader(settings)

    assert list(tmp_path.iterdir()) == []
