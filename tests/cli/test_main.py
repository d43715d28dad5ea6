import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from tests.cli.scripted_server import Server, endpoint, serving
from tests.cli.shell import COMMAND, ROOT, environment, llmops, start
from tests.faults import accept_and_stall
from tests.scripts import document
from tests.upstream import refused_url

#: What `llmops --help` may import of ours, and nothing else: each of these is the wall, not a command.
WALL = {"llmops", "llmops.cli", "llmops.errors"}


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as running:
        yield running


def test_help_imports_no_command() -> None:
    asked = [sys.executable, "-X", "importtime", *COMMAND[1:], "--help"]
    done = subprocess.run(asked, capture_output=True, text=True, cwd=ROOT, env=environment(""), check=True)

    imported = {line.rsplit("|", 1)[1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert {name for name in imported if name.split(".")[0] == "llmops"} == WALL
    assert not imported & {"urllib.request", "orjson", "rich", "prompt_toolkit", "yaml", "asyncio"}
    assert "Ask an endpoint one question." in done.stdout


def test_help_takes_at_most_twice_as_long_as_click(server: Server) -> None:
    """Of interleaved runs the fastest of each: a busy machine slows single runs, not the best ones."""
    commands = {"click": (sys.executable, "-c", "import click"), "help": (*COMMAND, "--help")}
    commands["query"] = (*COMMAND, "query", "demo", "hi")
    best = dict.fromkeys(commands, float("inf"))
    for _ in range(7):
        for name, command in commands.items():
            started = time.perf_counter()
            subprocess.run(command, input=b"", capture_output=True, cwd=ROOT, env=environment(server.url), check=True)
            best[name] = min(best[name], time.perf_counter() - started)

    assert best["help"] <= 2 * best["click"]
    assert best["query"] <= 3 * best["click"]


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["qeury"], "Did you mean 'query'?"),
        (["query"], "Missing argument 'ENDPOINT'"),
        (["query", "demo", "hi", "--strem"], "'--no-stream', '--stream'"),
        (["query", "demo", "hi", "-o", "max_tokens"], "key=value"),
        (["query", "demo"], "there is no question"),
        ([], "Ask an endpoint one question."),
    ],
    ids=["command", "argument", "option", "parameter", "question", "nothing"],
)
def test_wrong_usage_exits_64_and_says_what_was_meant(server: Server, args: list[str], told: str) -> None:
    done = llmops(server.url, *args)

    assert (done.returncode, done.stdout) == (64, "")
    assert told in done.stderr


def test_no_server_is_one_line_and_exit_code_69() -> None:
    done = llmops(refused_url(), "query", "demo", "hi")

    line = f"llmops: no server answers at {refused_url()}: start one with `llmops serve`, or name it with LLMOPS_HOST\n"
    assert (done.returncode, done.stdout, done.stderr) == (69, "", line)


def test_a_bug_is_one_line_that_says_how_to_see_more(server: Server) -> None:
    server.upstream.play(document({"endpoints": [7]}), document({"endpoints": [7]}))

    plain = llmops(server.url, "endpoints", "list")
    debug = llmops(server.url, "--debug", "endpoints", "list")

    assert plain.returncode == debug.returncode == 1
    assert plain.stderr.count("\n") == 1
    assert "this is a bug: `llmops --debug …` shows the traceback" in plain.stderr
    assert "Traceback" in debug.stderr


def test_a_reader_who_leaves_early_is_a_normal_end(server: Server) -> None:
    server.endpoints |= {f"e{number}": endpoint(f"e{number}") for number in range(3000)}

    running = start(server.url, "endpoints", "list")
    assert running.stdout is not None
    running.stdout.readline()
    running.stdout.close()

    assert running.wait(10) == 0
    assert running.stderr is not None
    assert running.stderr.read() == b""
    running.stderr.close()


def test_ctrl_c_while_waiting_ends_the_command_and_the_call(server: Server) -> None:
    server.answers.append(accept_and_stall())

    running = start(server.url, "query", "demo", "hi")
    server.upstream.wait_for(lambda: len(server.invocations) == 1)
    running.send_signal(signal.SIGINT)
    stdout, stderr = running.communicate(timeout=60)

    assert (running.returncode, stdout, stderr.strip()) == (130, b"", b"")
    server.upstream.wait_for(lambda: server.upstream.cancelled == 1)


@pytest.mark.parametrize(
    ("shell", "told"), [("bash", "complete -o"), ("zsh", "#compdef"), ("fish", "complete --no-files")]
)
def test_a_shell_gets_its_completion_script(shell: str, told: str) -> None:
    done = llmops("", "completion", shell)

    assert done.returncode == 0
    assert told in done.stdout


@pytest.mark.parametrize(
    ("words", "told"), [("llmops que", "plain,query"), ("llmops query de", "plain,demo")], ids=["command", "endpoint"]
)
def test_a_shell_completes_commands_and_endpoint_names(server: Server, words: str, told: str) -> None:
    typed = {"COMP_WORDS": words, "COMP_CWORD": str(words.count(" ")), "_LLMOPS_COMPLETE": "bash_complete"}

    done = llmops(server.url, more=typed)

    assert done.stdout.split() == [told]
