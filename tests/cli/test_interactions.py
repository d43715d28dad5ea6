"""The log on the command line: in a pipe, on a terminal, as JSON."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from llmops.cli.interactions import COMMANDS
from llmops.cli.interactions import interactions as command
from llmops.errors import CommandError, NotFound
from llmops.interactions.logged import LoggedInteraction
from llmops.interactions.record import Interaction
from llmops.interactions.spool import Spool
from llmops.settings import Settings
from tests.cli.shell import start, terminal
from tests.interactions.deliveries import delivered
from tests.interactions.records import abandoned, attempt, embedded, failed, fallback, one_of_each, plain

NOWHERE = "http://127.0.0.1:9"
HOSTILE = '{"messages":[{"role":"user","content":"red \\u001b[31m\\u009b31m\\r\\nbell \\u0007"}]}'


@pytest.fixture
def settings(tmp_path: Path, mlflow_template: Path) -> Settings:
    """Settings of a data directory of this test's own."""
    shutil.copy(mlflow_template, tmp_path / "mlflow.db")
    return Settings(data_dir=tmp_path)


def at(second: int, **changes: Any) -> Interaction:
    return replace(plain(), received_ns=(1_700_000_000 + second) * 10**9, **changes)


def run(settings: Settings, *arguments: str) -> Result:
    return CliRunner().invoke(command, [*arguments, "--data-dir", str(settings.data_dir)])


def out(settings: Settings, *arguments: str) -> list[str]:
    result = run(settings, *arguments)
    assert result.exception is None, result.output
    return result.stdout.splitlines()


def shown(settings: Settings, *arguments: str, columns: int) -> list[str]:
    """What a terminal shows."""
    options = ("--data-dir", str(settings.data_dir))
    read = terminal(NOWHERE, "interactions", *arguments, *options, columns=columns, more={"NO_COLOR": "1"}).read()
    return str(read).splitlines()


def test_a_list_is_newest_first_and_says_how_to_go_on(settings: Settings) -> None:
    first, second, third = (at(second) for second in range(3))
    delivered(settings, first, second, third)

    page = run(settings, "list", "--limit", "2")
    token = page.stderr.split()[-1]

    header, *rows = page.stdout.splitlines()
    assert header.split() == ["TIME", "ENDPOINT", "STATUS", "MS", "IN", "OUT", "USD", "INTERACTION", "PROMPT"]
    assert [third.interaction_id in rows[0], second.interaction_id in rows[1], len(rows)] == [True, True, 2]
    assert first.interaction_id in out(settings, "list", "--page-token", token)[1]


def test_every_option_chooses(settings: Settings) -> None:
    wanted = at(
        5,
        endpoint="mail",
        user="ada's",
        session="s 1",
        model="m",
        served_entity="e",
        provider="p",
        client_request_id="r",
        cost_usd=0.5,
        latency_ms=900.0,
        request='{"messages":[{"content":"a needle"}]}',
    )
    delivered(settings, wanted, at(1), failed())
    options = {
        "--endpoint": "mail",
        "--user": "ada's",
        "--session": "s 1",
        "--model": "m",
        "--served-entity": "e",
        "--provider": "p",
        "--request-id": "r",
        "--min-cost": "0.5",
        "--min-latency": "900",
        "--contains": "Needle",
    }
    for option, value in options.items():
        page = json.loads(run(settings, "list", "--json", option, value).stdout)
        assert [one["interaction_id"] for one in page["interactions"]] == [wanted.interaction_id], option

    times = ("--since", "2023-11-14T22:13:22Z", "--until", "2023-11-15")
    assert len(out(settings, "list", *times)) == len(out(settings, "list", "--status", "5XX")) == 2


def test_a_story_says_why_it_went_so(settings: Settings) -> None:
    verdict = {"name": "pii", "action": "mask", "started_ms": 0.0, "duration_ms": 2.5, "entities": ["email"]}
    fell = replace(fallback(), guardrails=(verdict,))
    down = replace(failed(), attempts=(replace(attempt(error="status", decision="final"), status=500),))
    delivered(settings, fell, down)

    lines = out(settings, "show", fell.interaction_id)
    assert (
        "attempt 1:      down (openai gpt-4o-mini), after 1 ms, for 20 ms: connect: nobody listens at 127.0.0.1:9; "
        "the next served entity was tried"
    ) in lines
    assert "attempt 2:      gpt (openai gpt-4o-mini), after 1 ms, for 20 ms: answered 200" in lines
    assert 'guardrail:      pii, duration_ms 2.5, action mask, entities ["email"]' in lines
    assert "A reel for thread." in "\n".join(lines)

    lines = out(settings, "show", down.trace_id[:-4])
    assert "outcome:        failed 502 INTERNAL_ERROR - nobody listens at 127.0.0.1:9" in lines
    assert any(
        line.endswith("status 500: nobody listens at 127.0.0.1:9; this failure was the answer") for line in lines
    )


def test_figures_come_in_rows(settings: Settings) -> None:
    delivered(settings, at(0, cost_usd=0.5), at(1), at(7200), abandoned(), embedded())

    header, *rows = out(settings, "stats")
    assert header.split()[:3] == ["ENDPOINT", "REQUESTS", "ERRORS"]
    assert [row.split()[:3] for row in rows] == [["chat", "4", "1"], ["vectors", "1", "0"]]
    assert rows[0].endswith("0.5+")
    header, *rows = out(settings, "stats", "--by", "hour", "--until", "2023-12-01")
    assert header.split()[:3] == ["ENDPOINT", "HOUR", "REQUESTS"]
    assert [row.split()[3] for row in rows] == ["2", "1"]


def test_everything_speaks_json(settings: Settings) -> None:
    logged = plain()
    delivered(settings, logged)

    page = json.loads(run(settings, "list", "--json").stdout)
    story = json.loads(run(settings, "show", logged.trace_id, "--json").stdout)
    (figures,) = json.loads(run(settings, "stats", "--json").stdout)
    (hour,) = json.loads(run(settings, "stats", "--by", "hour", "--json").stdout)
    (line,) = out(settings, "tail", "--json")
    flushed = json.loads(run(settings, "flush", "--json").stdout)

    assert page["next_page_token"] is None
    assert page["interactions"] == [json.loads(line)]
    assert sorted(page["interactions"][0]) == sorted(LoggedInteraction.__slots__)
    assert sorted(set(story) - set(page["interactions"][0])) == [
        *("assessments", "attempts", "guardrails", "message", "params", "request", "wire"),
    ]
    assert story["attempts"][0]["decision"] == "answered"
    assert (figures["requests"], figures["latency_p95_ms"], figures["period"]) == (1, 42.5, None)
    assert hour["period"][13:19] == ":00:00"
    assert flushed == {"left": 0}


def test_an_empty_answer_is_said_and_is_no_failure(settings: Settings) -> None:
    delivered(settings, plain())

    for arguments in (("list",), ("stats",), ("tail",)):
        result = run(settings, *arguments, "--user", "nobody")
        assert (result.exit_code, result.stdout, result.stderr) == (0, "", "no interaction fits\n")
    assert json.loads(run(settings, "stats", "--json", "--user", "nobody").stdout) == []


@pytest.mark.parametrize("arguments", [("list",), ("stats",), ("stats", "--by", "day"), ("tail",)], ids=" ".join)
@pytest.mark.parametrize("columns", [40, 100, 200])
def test_a_terminal_gets_what_fits(settings: Settings, arguments: tuple[str, ...], columns: int) -> None:
    one, *_ = logged = [replace(one, endpoint="chat-with-a-name") for one in one_of_each() if one.known]
    delivered(settings, *logged, replace(one, interaction_id="0" * 31 + "1", request=HOSTILE))

    lines = shown(settings, *arguments, columns=columns)

    assert max(map(len, lines)) <= columns
    assert "chat-with-a-name" in "".join(lines)
    assert not any(char in "".join(lines) for char in "\x1b\x9b\x07")


def test_figures_are_plotted_for_eyes_only(settings: Settings) -> None:
    delivered(settings, *(plain() for _ in range(3)), failed(), embedded())

    seen = {line.split()[0]: line.count("█") for line in shown(settings, "stats", columns=160) if "█" in line}

    assert seen == {"chat": 16, "vectors": 4}
    assert not any("█" in line for line in out(settings, "stats"))


def test_what_callers_wrote_cannot_drive_a_terminal_through_a_pipe(settings: Settings) -> None:
    delivered(settings, replace(plain(), endpoint="no\x1b[2J\nsuch", known=False, request=HOSTILE))

    for arguments in (("list",), ("tail",)):
        text = run(settings, *arguments).stdout
        assert "\x1b" not in text
        assert "no\ufffd[2J such" in text


@contextmanager
def following(settings: Settings, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    process = start(NOWHERE, "interactions", "tail", "-f", *options, "--data-dir", str(settings.data_dir))
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_following_gives_what_arrives_until_ctrl_c(settings: Settings) -> None:
    old, new, unwanted, newer = plain(), failed(), plain(), failed()
    newer = replace(newer, received_ns=new.received_ns + 10**9)
    delivered(settings, replace(failed(), user="before"), old)
    with following(settings, "--json", "--status", "error") as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["user"] == "before"

        delivered(settings, new, unwanted)
        delivered(settings, newer)
        lines = [json.loads(process.stdout.readline()) for _ in range(2)]

        assert [line["interaction_id"] for line in lines] == [new.interaction_id, newer.interaction_id]
        process.send_signal(signal.SIGINT)
        rest, noise = process.communicate(timeout=60)
        assert (process.returncode, rest.strip(), noise.strip()) == (130, b"", b"")


def test_following_waits_for_the_first_interaction(tmp_path: Path, mlflow_template: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    with following(settings) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert b"waiting" in process.stderr.readline()

        shutil.copy(mlflow_template, tmp_path / "new.db")
        (tmp_path / "new.db").replace(tmp_path / "mlflow.db")
        logged = plain()
        delivered(settings, logged)

        assert logged.interaction_id in process.stdout.readline().decode()


def test_flush_says_how_many_are_left(tmp_path: Path) -> None:
    spool: Spool[Interaction] = Spool(tmp_path / "spool" / "worker-0.db")
    with closing(spool):
        spool.append(plain())

    ended = CliRunner(env={"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}).invoke(
        command, ["flush", "--timeout", "0.2", "--data-dir", str(tmp_path)]
    )

    assert isinstance(ended.exception, CommandError)
    assert ended.exception.message.startswith("1 interactions are not in MLflow")


def test_nothing_logged_yet_is_said_and_makes_nothing(tmp_path: Path) -> None:
    for arguments in (["list"], ["stats"], ["tail"], ["show", "0" * 32]):
        ended = CliRunner().invoke(command, [*arguments, "--data-dir", str(tmp_path)])
        assert isinstance(ended.exception, NotFound)

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--since", "yesterday", "neither an age"),
        ("--since", "5 m", "neither an age"),
        ("--until", "2026-13-01", "neither an age"),
        ("--status", "7xx", "is none of: an HTTP status"),
        ("--min-cost", "-1", "not in the range"),
        ("--contains", "", "has 1 to 2000 characters"),
    ],
)
def test_a_choice_nobody_understands_is_wrong_usage(tmp_path: Path, option: str, value: str, said: str) -> None:
    ended = CliRunner().invoke(command, ["list", option, value, "--data-dir", str(tmp_path)])

    assert ended.exit_code == 2
    assert said in ended.output


def test_help_names_every_command_and_imports_none() -> None:
    script = (
        "import sys; from click.testing import CliRunner; from llmops.cli.interactions import interactions as c; "
        "r = CliRunner().invoke(c, ['--help']); print(r.output); print('mlflow' in sys.modules, 'rich' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)

    assert [name for name in COMMANDS if f"\n  {name} " not in done.stdout] == []
    assert done.stdout.splitlines()[-1] == "False False"
