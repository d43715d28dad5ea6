from collections.abc import Iterator

import pytest

from llmops.client import Client
from llmops.errors import CommandError
from llmops.settings import ClientSettings
from tests.cli.scripted_server import FACTS, INTERACTION, RUN, Server, endpoint, error, serving, streamed
from tests.faults import (
    accept_and_stall,
    cut,
    cut_stream,
    html,
    one_byte_chunks,
    reset_before_headers,
    reset_in_body,
    stall_between_chunks,
)
from tests.scripts import WORDS, chat, chat_stream, event, redirect, stream
from tests.upstream import refused_url
from tests.wire import Gate, Script

BODY = {"messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(endpoint("demo"), endpoint("local-qwen3"), endpoint("gpt", reason="no key")) as running:
        yield running


@pytest.fixture
def client(server: Server) -> Client:
    return Client(ClientSettings(server.url, "secret-token"))


def test_an_answer_comes_with_what_the_headers_tell_of_it(client: Client, server: Server) -> None:
    answer = client.invoke("demo", BODY, session="s1")

    facts = answer.facts
    assert answer.document["choices"][0]["message"]["content"] == "".join(WORDS)
    assert (facts.interaction_id, facts.trace_id, facts.run_id) == (INTERACTION, f"tr-{INTERACTION}", RUN)
    assert facts.served_entity == FACTS["served-model-name"]
    assert facts.usage is not None
    assert facts.usage.total_tokens == 12
    asked = server.invocations[0]
    assert asked.json == BODY
    assert asked.headers["x-session-id"] == "s1"
    assert asked.headers["authorization"] == "Bearer secret-token"


def test_a_stream_gives_its_chunks_and_asks_for_its_tokens(client: Client, server: Server) -> None:
    server.answers.append(one_byte_chunks(streamed()))

    with client.stream("demo", BODY) as reply:
        chunks = list(reply)

    assert "".join(c["choices"][0]["delta"].get("content", "") for c in chunks if c["choices"]) == "".join(WORDS)
    assert reply.facts.usage is not None
    assert reply.facts.usage.output_tokens == 5
    assert reply.facts.first_token_ms is not None
    assert 0 < reply.facts.first_token_ms <= reply.facts.latency_ms
    assert server.invocations[0].json == {**BODY, "stream": True, "stream_options": {"include_usage": True}}


def test_a_chunk_is_given_while_the_next_one_is_still_to_come(client: Client, server: Server) -> None:
    gate = Gate()
    server.answers.append(streamed("first", "second", pause=gate))

    with client.stream("demo", BODY) as reply:
        chunks = iter(reply)
        first = next(chunks)
        gate.open()
        rest = list(chunks)

    assert first["choices"][0]["delta"]["content"] == "first"
    assert len(rest) == 3


def test_leaving_a_stream_cancels_it_upstream(client: Client, server: Server) -> None:
    server.answers.append(streamed("first", "never", pause=Gate()))

    with client.stream("demo", BODY) as reply:
        next(iter(reply))

    server.upstream.wait_for(lambda: server.upstream.cancelled == 1)


@pytest.mark.parametrize(
    "broken",
    [
        cut_stream(2),
        cut(chat_stream(), 2),
        reset_in_body(200, chat_stream()),
        chat_stream(done=False),
        stream(b"data: <"),
    ],
    ids=["clean close", "cut chunk", "reset", "no [DONE]", "not JSON"],
)
def test_a_stream_that_does_not_end_as_it_should_was_cut_short(client: Client, server: Server, broken: Script) -> None:
    server.answers.append(broken)

    with (
        pytest.raises(CommandError, match="the answer of endpoint 'demo' was cut short"),
        client.stream("demo", BODY) as reply,
    ):
        list(reply)


def test_an_error_event_ends_a_stream_with_its_message(client: Client, server: Server) -> None:
    failed = event({"error": {"message": "the engine died", "code": "INTERNAL_ERROR"}})
    server.answers.append(stream(event({"choices": [{"delta": {"content": "Hel"}}]}), failed))

    with pytest.raises(CommandError, match=r"^the engine died$"), client.stream("demo", BODY) as reply:
        list(reply)


def test_a_refusal_is_told_in_the_servers_own_words(client: Client, server: Server) -> None:
    server.answers += [error(400, "BAD_REQUEST", "max_tokens must be > 0")] * 2

    for ask in (client.invoke, client.stream):
        with pytest.raises(CommandError, match=r"^max_tokens must be > 0$") as caught:
            ask("demo", BODY)
        assert caught.value.exit_code == 1


@pytest.mark.parametrize("name", ["local-qwen", "dmo", "a/b ü"])
def test_an_unknown_endpoint_is_told_with_the_nearest_names(client: Client, name: str) -> None:
    near = {"local-qwen": "did you mean 'local-qwen3'", "dmo": "did you mean 'demo'"}
    told = near.get(name, "`llmops endpoints list` shows all")

    for ask in (client.get_endpoint, client.delete_endpoint, lambda unknown: client.invoke(unknown, BODY)):
        with pytest.raises(CommandError) as caught:
            ask(name)
        assert f"'{name}'" in caught.value.message
        assert told in caught.value.message


def test_endpoints_are_created_changed_and_deleted(client: Client, server: Server) -> None:
    created = client.create_endpoint(endpoint("new"))
    updated = client.update_config("new", {"served_entities": [{"name": "other"}]})
    client.delete_endpoint("new")

    assert (created.name, created.ready, created.served_entities) == ("new", True, ("new-entity",))
    assert updated.served_entities == ("other",)
    assert [(known.name, known.state, known.reason) for known in client.list_endpoints()] == [
        ("demo", "READY", ""),
        ("local-qwen3", "READY", ""),
        ("gpt", "NOT_READY", "no key"),
    ]


def test_where_no_server_answers_it_says_how_to_get_one() -> None:
    nobody = Client(ClientSettings(refused_url(), None))

    with pytest.raises(CommandError) as caught:
        nobody.list_endpoints()

    assert caught.value.exit_code == 69
    assert caught.value.message == (
        f"no server answers at {refused_url()}: start one with `llmops serve`, or name it with LLMOPS_HOST"
    )
    assert not nobody.ready()


def test_a_server_that_closes_without_an_answer_is_not_reachable(client: Client, server: Server) -> None:
    server.answers.append(reset_before_headers())

    with pytest.raises(CommandError, match="closed the connection before it answered") as caught:
        client.invoke("demo", BODY)

    assert caught.value.exit_code == 69


@pytest.mark.parametrize("foreign", [html(), html(code=502), redirect("/elsewhere")], ids=["page", "502", "redirect"])
def test_another_kind_of_server_is_named_as_such(client: Client, server: Server, foreign: Script) -> None:
    server.answers.append(foreign)

    with pytest.raises(CommandError, match=r"not as an llmops server does: is LLMOPS_HOST right\?"):
        client.invoke("demo", BODY)

    assert [request.path for request in server.upstream.requests] == ["/serving-endpoints/demo/invocations"]


def test_an_answer_that_is_no_stream_is_refused(client: Client, server: Server) -> None:
    server.answers.append(chat())

    with pytest.raises(CommandError, match="not as a stream: try --no-stream"):
        client.stream("demo", BODY)


def test_a_proxy_is_not_asked_for_this_machine(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", refused_url())
    monkeypatch.delenv("no_proxy", raising=False)
    reached = Client(ClientSettings(client.url, None))

    assert reached.ready()


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (ClientSettings("ftp://host", None), "does not begin with http"),
        (ClientSettings("http://host:port", None), "is not a URL"),
        (ClientSettings("http://user:hunter2@host", None), "name a token with LLMOPS_TOKEN"),
        (ClientSettings("http://host", "hunter2\n"), "a header cannot carry"),
    ],
    ids=["scheme", "port", "password", "token"],
)
def test_wrong_settings_are_refused_and_no_secret_is_shown(settings: ClientSettings, told: str) -> None:
    with pytest.raises(CommandError, match=told) as caught:
        Client(settings)

    assert caught.value.exit_code == 64
    assert "hunter2" not in caught.value.message


def test_a_server_that_stalls_is_given_up(server: Server) -> None:
    hasty = Client(ClientSettings(server.url, None), answer_timeout_s=0.2)
    server.answers += [accept_and_stall(), stall_between_chunks(2)]

    with pytest.raises(CommandError, match=r"did not answer within 0\.2 s"):
        hasty.invoke("demo", BODY)
    with pytest.raises(CommandError, match="cut short: timed out"), hasty.stream("demo", BODY) as reply:
        list(reply)
