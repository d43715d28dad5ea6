"""What was logged, read back: by the reader, and through the command line."""

import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from llmops.cli.interactions import interactions as command
from llmops.errors import CommandError, InvalidParameter, NotFound
from llmops.interactions.logged import Wanted
from llmops.interactions.mlflow_reader import MlflowReader
from llmops.interactions.mlflow_sink import MlflowSink
from llmops.interactions.record import Interaction
from llmops.interactions.spool import Leased, Spool
from llmops.settings import Settings
from tests.interactions.records import abandoned, embedded, failed, fallback, one_of_each, plain, streamed, unreadable


def log(settings: Settings, interactions: list[Interaction]) -> MlflowReader:
    sink = MlflowSink(settings)
    sink.open()
    sink.deliver([Leased(one, 1, seq, Path("worker-0.db")) for seq, one in enumerate(interactions)])
    return MlflowReader(settings)


def ids(reader: MlflowReader, **wanted: Any) -> set[str]:
    return {one.interaction_id for one in reader.page(Wanted(**wanted), 100).interactions}


def test_interactions_are_listed_newest_first_page_by_page(settings: Settings) -> None:
    logged = [replace(plain(), received_ns=(1_700_000_000 + second) * 10**9) for second in range(5)]
    reader = log(settings, logged)

    first = reader.page(Wanted(), 3)
    second = reader.page(Wanted(), 3, first.token)

    listed = [one.interaction_id for one in (*first.interactions, *second.interactions)]
    assert listed == [one.interaction_id for one in reversed(logged)]
    assert second.token is None


def test_an_interaction_comes_back_as_it_was_recorded(settings: Settings) -> None:
    logged = replace(streamed(), cost_usd=0.25)
    (found,) = log(settings, [logged]).page(Wanted(), 10).interactions

    assert found.trace_id == logged.trace_id
    assert found.received_ms == logged.received_ns // 1_000_000
    assert (found.endpoint, found.status, found.outcome) == ("chat", 200, "answered")
    assert (found.latency_ms, found.first_token_ms) == (42.5, 17.25)
    assert (found.input_tokens, found.output_tokens, found.cost_usd) == (12, 6, 0.25)
    assert (found.prompt, found.response) == ("What is a spool?", "A reel for thread.")


def test_every_filter_chooses(settings: Settings) -> None:
    chat, other, down, vectors, nowhere = (
        plain(),
        replace(plain(), user="bob's", session="2"),
        failed(),
        embedded(),
        unreadable(),
    )
    old = replace(plain(), received_ns=10**18)
    reader = log(settings, [chat, other, down, vectors, nowhere, old])

    assert ids(reader, endpoint="vectors") == {vectors.interaction_id}
    assert ids(reader, endpoint="_rejected") == {nowhere.interaction_id}
    assert ids(reader, endpoint="none") == set()
    assert ids(reader, user="bob's") == {other.interaction_id}
    assert ids(reader, session="2") == {other.interaction_id}
    assert ids(reader, status=502) == {down.interaction_id}
    assert ids(reader, client_request_id=chat.client_request_id) == {chat.interaction_id}
    assert old.interaction_id not in ids(reader, since_ms=chat.received_ns // 1_000_000)
    assert [one.interaction_id for one in reader.find_by_request_id(str(down.client_request_id))] == [
        down.interaction_id
    ]


def test_a_value_mlflow_cannot_search_for_is_said(settings: Settings) -> None:
    reader = log(settings, [plain()])

    with pytest.raises(InvalidParameter, match="both kinds of quotes"):
        reader.page(Wanted(user="""'"'"""), 10)
    with pytest.raises(InvalidParameter, match="MLflow"):
        reader.page(Wanted(), 10, "no token")


def test_a_story_is_found_by_every_id_of_it(settings: Settings) -> None:
    logged = fallback()
    reader = log(settings, [logged])
    run_id = reader.page(Wanted(), 1).interactions[0].run_id

    stories = [reader.show(name) for name in (logged.interaction_id, logged.trace_id, run_id)]

    assert stories[0] == stories[1] == stories[2]
    assert stories[0].request == json.loads(logged.request)
    assert stories[0].response == json.loads(str(logged.response))
    assert stories[0].attempts == logged.attempts
    assert stories[0].params["temperature"] == "0.2"


def test_an_id_of_nothing_is_said(settings: Settings) -> None:
    reader = log(settings, [plain()])

    for name in ("0" * 32, "tr-" + "0" * 32, "no/id", ""):
        with pytest.raises(NotFound, match="flush"):
            reader.show(name)


def test_figures_are_right(settings: Settings) -> None:
    logged = [replace(plain(), latency_ms=float(n), cost_usd=0.5) for n in range(1, 21)]
    logged += [failed(), abandoned(), embedded()]
    chat, vectors = log(settings, logged).stats(Wanted())

    assert (chat.endpoint, chat.requests, chat.errors, chat.unpriced) == ("chat", 22, 2, 1)
    assert chat.latency_ms == (11.0, 42.5, 42.5)
    assert chat.first_token_ms == 17.25
    assert (chat.input_tokens, chat.output_tokens, chat.cost_usd) == (21 * 12, 21 * 6, 10.0)
    assert (vectors.endpoint, vectors.requests, vectors.first_token_ms) == ("vectors", 1, None)


def run(settings: Settings, *arguments: str) -> Result:
    return CliRunner().invoke(command, [*arguments, "--data-dir", str(settings.data_dir)])


def test_the_command_line_lists_and_shows(settings: Settings) -> None:
    logged = [*one_of_each(), replace(plain(), request='{"messages":[{"role":"user","content":"red \\u001b[31m"}]}')]
    log(settings, logged)

    listed = run(settings, "list", "--endpoint", "chat")
    shown = run(settings, "show", logged[4].interaction_id)
    figures = run(settings, "stats", "--since", "7d")

    assert listed.output.splitlines()[0].split()[:3] == ["TIME", "ENDPOINT", "STATUS"]
    assert len(listed.output.splitlines()) == 7
    assert "attempt 1:      down, 20 ms, connect: nobody listens" in shown.output
    assert "A reel for thread." in shown.output
    assert [line.split()[0] for line in figures.output.splitlines()] == ["ENDPOINT", "_rejected", "chat", "vectors"]


def test_the_command_line_speaks_json(settings: Settings) -> None:
    logged = plain()
    log(settings, [logged])

    page = json.loads(run(settings, "list", "--json", "--request-id", str(logged.client_request_id)).output)
    story = json.loads(run(settings, "show", logged.trace_id, "--json").output)
    (figures,) = json.loads(run(settings, "stats", "--json").output)
    flushed = json.loads(run(settings, "flush", "--json").output)

    assert [one["interaction_id"] for one in page["interactions"]] == [logged.interaction_id]
    assert story["attempts"][0]["decision"] == "answered"
    assert (figures["requests"], figures["latency_p95_ms"]) == (1, 42.5)
    assert flushed == {"left": 0}


def test_flush_says_how_many_are_left(tmp_path: Path) -> None:
    with closing(Spool(tmp_path / "spool" / "worker-0.db")) as spool:
        spool.append(plain())

    ended = CliRunner(env={"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}).invoke(
        command, ["flush", "--timeout", "0.2", "--data-dir", str(tmp_path)]
    )

    assert isinstance(ended.exception, CommandError)
    assert ended.exception.message.startswith("1 interactions are not in MLflow")


def test_nothing_logged_yet_is_said_and_makes_nothing(tmp_path: Path) -> None:
    ended = CliRunner().invoke(command, ["list", "--data-dir", str(tmp_path)])

    assert isinstance(ended.exception, NotFound)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("since", ["yesterday", "5 m", "2026-13-01"])
def test_a_time_nobody_understands_is_wrong_usage(tmp_path: Path, since: str) -> None:
    ended = CliRunner().invoke(command, ["list", "--since", since, "--data-dir", str(tmp_path)])

    assert ended.exit_code == 2
    assert "neither an age" in ended.output
