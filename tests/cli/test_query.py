import json
from collections.abc import Iterator

import pytest

from tests.cli.scripted_server import FACTS, RUN, Server, endpoint, serving, streamed
from tests.cli.shell import llmops, start, terminal
from tests.faults import cut_stream
from tests.scripts import WORDS, chat, embeddings
from tests.wire import Gate

ANSWER = "".join(WORDS) + "\n"


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(
        endpoint("demo"), endpoint("vectors", "llm/v1/embeddings"), endpoint("old", "llm/v1/completions")
    ) as running:
        yield running


def test_the_answer_is_on_stdout_and_the_facts_are_on_stderr(server: Server) -> None:
    done = llmops(server.url, "query", "demo", "hi")
    quiet = llmops(server.url, "query", "demo", "hi", "--quiet")

    assert (done.returncode, done.stdout) == (0, ANSWER)
    assert done.stderr.startswith("demo -> demo-entity · 7 in, 5 out · ")
    assert done.stderr.endswith(f" ms · run {RUN}\n")
    assert (quiet.stdout, quiet.stderr) == (ANSWER, "")


@pytest.mark.parametrize(
    ("args", "piped", "question"),
    [
        (["explain:"], b"a\nb\n", "explain:\n\na\nb"),
        (["-"], b"from the pipe\n", "from the pipe"),
        ([], b"from the pipe\n", "from the pipe"),
        (["grüß dich 👋"], b"", "grüß dich 👋"),
        ([], b"caf\xe9 \xf0\x9f\x91\x8b", "caf\N{REPLACEMENT CHARACTER} 👋"),
    ],
    ids=["both", "dash", "pipe", "prompt", "not UTF-8"],
)
def test_the_question_is_the_prompt_and_the_pipe(server: Server, args: list[str], piped: bytes, question: str) -> None:
    done = llmops(server.url, "query", "demo", *args, piped=piped)

    assert done.returncode == 0
    assert server.invocations[0].json == {"messages": [{"role": "user", "content": question}]}


def test_system_and_parameters_are_sent(server: Server) -> None:
    options = ["-o", "max_tokens=9", "-o", 'stop=["a"]', "-o", "user=ann=1"]

    llmops(server.url, "query", "demo", "hi", "--system", "Be brief.", *options)

    assert server.invocations[0].json == {
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}],
        "max_tokens": 9,
        "stop": ["a"],
        "user": "ann=1",
    }


@pytest.mark.parametrize("how", ["--no-stream", "--stream"])
def test_json_is_the_response_with_its_facts(server: Server, how: str) -> None:
    done = llmops(server.url, "query", "demo", "hi", "--json", how)

    answer = json.loads(done.stdout)
    assert answer["choices"][0]["message"]["content"] == "".join(WORDS)
    assert answer["usage"]["total_tokens"] == 12
    assert answer["llmops"]["run_id"] == RUN
    assert answer["llmops"]["trace_id"] == FACTS["x-mlflow-trace-id"]
    assert (answer["llmops"]["first_token_ms"] is None) == (how == "--no-stream")
    assert done.stderr == ""


def test_every_task_is_asked_in_its_own_words(server: Server) -> None:
    vector = llmops(server.url, "query", "vectors", "hi")
    text = llmops(server.url, "query", "old", "hi")
    flowing = llmops(server.url, "query", "old", "hi", "--stream")

    assert json.loads(vector.stdout) == [1.0, 0.0, 0.0]
    assert text.stdout == flowing.stdout == ANSWER
    assert [sorted(request.json) for request in server.invocations] == [
        ["input"],
        ["prompt"],
        ["prompt", "stream", "stream_options"],
    ]


def test_a_streamed_answer_is_shown_as_it_comes(server: Server) -> None:
    gate = Gate()
    server.answers.append(streamed("first", " second", pause=gate))

    running = start(server.url, "query", "demo", "hi", "--stream", "--quiet")
    assert running.stdout is not None
    first = running.stdout.read(5)
    gate.open()
    rest, _ = running.communicate(timeout=60)

    assert (first, rest) == (b"first", b" second\n")


def test_a_stream_that_breaks_keeps_what_came_and_fails(server: Server) -> None:
    server.answers.append(cut_stream(2))

    done = llmops(server.url, "query", "demo", "hi", "--stream")

    assert (done.returncode, done.stdout) == (1, "Hello there\n")
    assert done.stderr.startswith("llmops: the answer of endpoint 'demo' was cut short: ")


def test_an_answer_without_text_says_so(server: Server) -> None:
    server.answers.append(chat(None, tool_calls=[]))  # type: ignore[arg-type]

    done = llmops(server.url, "query", "demo", "hi")

    assert (done.returncode, done.stdout) == (0, "")
    assert "--json shows all of it" in done.stderr


def test_a_model_cannot_drive_the_terminal_but_a_pipe_gets_every_byte(server: Server) -> None:
    server.answers += [streamed("a\x1b]52;c;eA==\x07b"), chat("a\x1b[31mb")]

    shown = terminal(server.url, "query", "demo", "hi")
    shown.expect(f"run {RUN}")
    piped = llmops(server.url, "query", "demo", "hi")

    assert "a␛]52;c;eA==␇b\r\n" in shown.before
    assert piped.stdout == "a\x1b[31mb\n"


def test_a_terminal_shows_the_beginning_of_a_vector(server: Server) -> None:
    server.answers.append(embeddings([0.25] * 384))

    shown = terminal(server.url, "query", "vectors", "hi")

    shown.expect_exact("[0.2500, 0.2500, 0.2500, 0.2500, …] 384 numbers")


@pytest.mark.parametrize("plain", [{"NO_COLOR": "please"}, {"TERM": "dumb"}], ids=str)
def test_who_wants_no_escape_codes_gets_none(server: Server, plain: dict[str, str]) -> None:
    coloured = terminal(server.url, "query", "demo", "hi")
    coloured.expect(r"run \w+\x1b\[0m")
    shown = terminal(server.url, "query", "demo", "hi", more=plain)
    shown.expect(f"run {RUN}\r\n")

    assert "\x1b" not in shown.before
