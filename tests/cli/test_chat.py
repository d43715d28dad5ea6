import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.scripted_server import RUN, Server, endpoint, error, serving, streamed
from tests.cli.shell import llmops, terminal
from tests.faults import accept_and_stall, cut_stream
from tests.scripts import WORDS
from tests.wire import Gate

ANSWER = "".join(WORDS)
_CODE = r"\x1b\[[0-9;?]*\w"
CTRL_C, CTRL_D, ALT_ENTER = "\x03", "\x04", "\x1b\r"


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(
        endpoint("gpt", reason="no key"), endpoint("vectors", "llm/v1/embeddings"), endpoint("demo"), endpoint("other")
    ) as running:
        yield running


class Chat:
    """A chat in a real terminal. `ask` waits for the next prompt, so that a test reads one exchange at a time."""

    def __init__(self, server: Server, tmp_path: Path, columns: int = 100, **more: str) -> None:
        more["LLMOPS_DATA_DIR"] = str(tmp_path)
        self._begins = "\r\n" if more.get("TERM") == "dumb" else r"\x1b\[\?2004h"
        self.screen: Any = terminal(server.url, "chat", columns=columns, more=more)
        self.prompt("demo")

    def prompt(self, name: str) -> str:
        """Wait until the chat reads; returns what was shown before, without escape codes."""
        # A prompt is painted again when its line is sent: only the one after the switch to bracketed paste reads.
        self.screen.expect(rf"{self._begins}(?:{_CODE})*{name}>")
        return re.sub(_CODE, "", str(self.screen.before))

    def ask(self, text: str, then: str = "demo") -> str:
        """Type a message or a command; returns what was shown until the next prompt."""
        self.screen.send(text + "\r")
        return self.prompt(then)

    def end(self) -> int:
        """Press Ctrl-D; returns the exit code."""
        self.screen.send(CTRL_D)
        self.screen.read()
        self.screen.close()
        return int(self.screen.exitstatus)


@pytest.fixture
def chat(server: Server, tmp_path: Path) -> Iterator[Chat]:
    opened = Chat(server, tmp_path)
    yield opened
    opened.screen.close(force=True)


def said(server: Server, turn: int = -1) -> list[tuple[str, str]]:
    """Role and text of each message of an invocation."""
    return [(message["role"], message["content"]) for message in server.invocations[turn].json["messages"]]


def test_a_conversation_is_kept_and_all_its_turns_carry_one_session(chat: Chat, server: Server) -> None:
    first = chat.ask("hello")
    chat.ask("/system Be brief.")
    chat.ask("/set temperature 0.5")
    chat.ask("and then?")
    ended = chat.end()

    assert f"{ANSWER}\r\ndemo -> demo-entity · 7 in, 5 out · first token " in first
    assert f"run {RUN}" in first
    assert said(server) == [
        ("system", "Be brief."),
        ("user", "hello"),
        ("assistant", ANSWER),
        ("user", "and then?"),
    ]
    assert server.invocations[1].json["temperature"] == 0.5
    assert len({request.headers["x-session-id"] for request in server.invocations}) == 1
    assert ended == 0


def test_clear_forgets_the_conversation_and_begins_a_session(chat: Chat, server: Server) -> None:
    chat.ask("hello")
    chat.ask("/clear")
    chat.ask("again")

    assert said(server) == [("user", "again")]
    assert len({request.headers["x-session-id"] for request in server.invocations}) == 2


def test_ctrl_c_stops_the_answer_and_not_the_program(chat: Chat, server: Server) -> None:
    server.answers.append(streamed("One", " never", pause=Gate()))

    chat.screen.send("count\r")
    chat.screen.expect_exact("One")
    chat.screen.send(CTRL_C)
    stopped = chat.prompt("demo")
    server.upstream.wait_for(lambda: server.upstream.cancelled == 1)
    chat.ask("go on")

    assert "stopped · demo -> demo-entity" in stopped
    assert said(server) == [("user", "count"), ("assistant", "One"), ("user", "go on")]


def test_ctrl_c_before_the_answer_takes_the_question_back(chat: Chat, server: Server) -> None:
    server.answers.append(accept_and_stall())

    chat.screen.send("count\r")
    server.upstream.wait_for(lambda: len(server.invocations) == 1)
    chat.screen.send(CTRL_C)
    assert "stopped" in chat.prompt("demo")
    server.upstream.wait_for(lambda: server.upstream.cancelled == 1)
    chat.ask("hello")

    assert said(server) == [("user", "hello")]


def test_ctrl_c_on_a_line_drops_it_and_on_an_empty_one_tells_the_way_out(chat: Chat, server: Server) -> None:
    chat.screen.send("not this" + CTRL_C)
    dropped = chat.prompt("demo")
    chat.screen.send(CTRL_C)
    told = chat.prompt("demo")
    chat.ask("this")

    assert "/quit" not in dropped
    assert "Ctrl-D or /quit ends the chat" in told
    assert said(server) == [("user", "this")]


def test_a_failed_turn_is_one_line_and_leaves_the_conversation(chat: Chat, server: Server) -> None:
    server.answers += [error(429, "REQUEST_LIMIT_EXCEEDED", "slow down"), cut_stream(2)]

    refused = chat.ask("first")
    cut = chat.ask("second")
    chat.ask("third")

    assert "error: slow down\r\n" in refused
    assert "Hello there\r\nerror: the answer of endpoint 'demo' was cut short" in cut
    assert said(server) == [("user", "third")]


def test_a_paste_of_many_lines_is_one_message(chat: Chat, server: Server) -> None:
    lines = "\n".join(f"line {number}" for number in range(200))

    chat.ask(f"\x1b[200~{lines}\x1b[201~")

    assert said(server) == [("user", lines)]
    assert len(server.invocations) == 1


def test_alt_enter_begins_a_new_line(chat: Chat, server: Server) -> None:
    chat.ask(f"one{ALT_ENTER}two")

    assert said(server) == [("user", "one\ntwo")]


def test_tab_completes_commands_and_endpoints_and_the_chat_moves_there(chat: Chat, server: Server) -> None:
    listed = chat.ask("/endpoint")
    moved = chat.ask("/endp\t ot\t", then="other")
    chat.ask("hello", then="other")

    assert "* demo  READY" in listed
    assert "vectors" not in listed
    assert "now talking with other" in moved
    assert server.invocations[0].path == "/serving-endpoints/other/invocations"


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("/hlep", "there is no command /hlep: did you mean /help?"),
        ("/xyz", "// begins a message with a slash"),
        ("/help", "Alt-Enter: new line."),
        ("/endpoint dem", "there is no endpoint 'dem' (did you mean 'demo'?)"),
        ("/endpoint vectors", "has the task llm/v1/embeddings, no chat"),
        ("/endpoint gpt", "now talking with gpt, which is not ready: no key"),
        ("/set stream false", "the chat sets it itself"),
        ("/system", "no system message"),
        ("//etc/hosts?", ANSWER),
    ],
)
def test_a_command_answers(server: Server, line: str, told: str) -> None:
    done = llmops(server.url, "chat", "demo", piped=f"{line}\n".encode())

    assert done.returncode == 0
    assert told in done.stdout + done.stderr


def test_a_pipe_is_answered_line_by_line_without_escape_codes(server: Server) -> None:
    server.answers += [streamed("One."), error(500, "INTERNAL_ERROR", "broken"), streamed("Three.")]

    done = llmops(server.url, "chat", piped="eins\n\nzwei\ndrei ü".encode())

    assert (done.returncode, done.stdout) == (0, "One.\nThree.\n")
    assert "error: broken\n" in done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    assert said(server) == [("user", "eins"), ("assistant", "One."), ("user", "drei ü")]


@pytest.mark.parametrize(
    ("plain", "codes"),
    [({"TERM": "dumb"}, r"\x1b"), ({"NO_COLOR": "1"}, r"\x1b\[[0-9;]*[1-9]m")],
    ids=["TERM=dumb", "NO_COLOR"],
)
def test_a_narrow_plain_terminal_is_enough(server: Server, tmp_path: Path, plain: dict[str, str], codes: str) -> None:
    server.answers += [streamed("One", " never", pause=Gate())]
    chat = Chat(server, tmp_path, columns=40, **plain)

    chat.screen.send("count\r")
    chat.screen.expect_exact("One")
    chat.screen.send(CTRL_C)
    shown = chat.prompt("demo")
    painted = chat.screen.before
    shown += "\n" + chat.ask("hello")
    painted += chat.screen.before

    assert [line for line in shown.splitlines() if len(line) > 40] == []
    assert f"run {RUN}" in shown
    assert not re.search(codes, painted)
    assert chat.end() == 0


def test_without_a_name_the_first_ready_of_local_demo_and_the_others_answers(server: Server) -> None:
    names = []
    for change in ({}, {"local-qwen3": endpoint("local-qwen3")}):
        server.endpoints |= change
        llmops(server.url, "chat", piped=b"hi\n")
        names.append(server.invocations[-1].path.split("/")[2])
    del server.endpoints["local-qwen3"], server.endpoints["demo"]
    llmops(server.url, "chat", piped=b"hi\n")
    names.append(server.invocations[-1].path.split("/")[2])
    del server.endpoints["other"]
    none = llmops(server.url, "chat", piped=b"hi\n")

    assert names == ["demo", "local-qwen3", "other"]
    assert (none.returncode, none.stderr) == (
        1,
        "llmops: no chat endpoint is ready: `llmops endpoints list` shows why\n",
    )


def test_what_was_typed_is_kept_for_its_owner_and_found_again(server: Server, tmp_path: Path) -> None:
    before = Chat(server, tmp_path)
    before.ask("remember me")
    before.end()

    after = Chat(server, tmp_path)
    after.ask("\x1b[A")
    after.end()

    assert [said(server, turn)[-1] for turn in (0, 1)] == [("user", "remember me")] * 2
    assert (tmp_path / "chat_history").stat().st_mode & 0o777 == 0o600
