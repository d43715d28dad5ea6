"""The leash, with real processes: nothing outlives its parent."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

WAIT_S = 10

#: A stranger with a worker of its own, as `mlflow server` has; the worker tells the stranger's process id.
STRANGER = """
import subprocess, sys
subprocess.Popen([sys.executable, "-c", "import os, signal; print(os.getppid(), flush=True); signal.pause()"]).wait()
"""

#: A parent that starts the program of its arguments on a leash.
PARENT = """
import subprocess, sys, signal
child = subprocess.Popen([sys.executable, *sys.argv[1:]], stdin=subprocess.PIPE)
signal.pause()
"""


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[str]]]:
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        process.kill()
        process.communicate()


def start(started: list[subprocess.Popen[str]], *command: str) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    started.append(subprocess.Popen([sys.executable, *command], stdin=pipe, stdout=pipe, stderr=pipe, text=True))
    return started[-1]


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def nobody_left(process: subprocess.Popen[str]) -> bool:
    """Wait until all that share the process's stdout, its children and theirs, have ended: only then it ends too."""
    try:
        process.communicate(timeout=WAIT_S)
    except subprocess.TimeoutExpired:
        return False
    return True


def test_a_child_drains_when_its_parent_closes_the_pipe(started: list[subprocess.Popen[str]]) -> None:
    drains = (
        "import signal, sys; from llmops import leash\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('drained', flush=True), sys.exit(3)))\n"
        "leash.hold(); print('held', flush=True); signal.pause()"
    )
    child = start(started, "-c", drains)
    assert line(child) == "held"
    out, _ = child.communicate(timeout=WAIT_S)

    assert (out.strip(), child.returncode) == ("drained", 3)


def test_a_child_that_does_not_drain_is_ended_by_force(started: list[subprocess.Popen[str]]) -> None:
    stubborn = (
        "import signal, threading; from llmops import leash\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "leash.hold(grace_s=0.1); print('held', flush=True); threading.Event().wait()"
    )
    child = start(started, "-c", stubborn)
    assert line(child) == "held"
    child.communicate(timeout=WAIT_S)

    assert child.returncode == 1


def test_a_child_deep_in_c_code_ends_at_once(started: list[subprocess.Popen[str]]) -> None:
    """A regular expression holds the interpreter's lock for years, as loading a model does for minutes."""
    busy = (
        "import re; from llmops import leash\n"
        "leash.hold(at_once=True); print('held', flush=True); re.match('(a+)+b', 'a' * 60)"
    )
    child = start(started, "-c", busy)
    assert line(child) == "held"
    child.communicate(timeout=WAIT_S)

    assert child.returncode == -signal.SIGIO


def test_a_child_dies_with_a_killed_parent(started: list[subprocess.Popen[str]]) -> None:
    child = "from llmops import leash; import signal; leash.hold(); print('held', flush=True); signal.pause()"
    parent = start(started, "-c", PARENT, "-c", child)
    assert line(parent) == "held"
    os.kill(parent.pid, signal.SIGKILL)

    assert nobody_left(parent)


def test_a_stranger_and_its_worker_die_with_a_killed_parent(started: list[subprocess.Popen[str]]) -> None:
    parent = start(started, "-c", PARENT, "-m", "llmops.leash", sys.executable, "-c", STRANGER)
    assert line(parent)
    os.kill(parent.pid, signal.SIGKILL)

    assert nobody_left(parent)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_stranger_and_its_worker_end_by_signal(started: list[subprocess.Popen[str]], signum: signal.Signals) -> None:
    leash = start(started, "-m", "llmops.leash", sys.executable, "-c", STRANGER)
    assert line(leash)
    leash.send_signal(signum)
    leash.wait(WAIT_S)

    assert nobody_left(leash)
    assert leash.returncode == 128 + signal.SIGTERM


def test_workers_a_killed_stranger_leaves_behind_are_ended(started: list[subprocess.Popen[str]]) -> None:
    leash = start(started, "-m", "llmops.leash", sys.executable, "-c", STRANGER)
    os.kill(int(line(leash)), signal.SIGKILL)
    leash.wait(WAIT_S)

    assert nobody_left(leash)
    assert leash.returncode == 128 + signal.SIGKILL


def test_a_stranger_keeps_its_exit_code_and_its_signals(started: list[subprocess.Popen[str]]) -> None:
    """Its signal mask is clean: SIGTERM, blocked in the leash, ends it."""
    leash = start(
        started,
        "-m",
        "llmops.leash",
        sys.executable,
        "-c",
        "import signal; exit(len(signal.pthread_sigmask(0, ())) + 7)",
    )
    leash.wait(WAIT_S)

    assert leash.returncode == 7


def test_a_command_that_cannot_start_is_one_line(started: list[subprocess.Popen[str]], tmp_path: Path) -> None:
    leash = start(started, "-m", "llmops.leash", str(tmp_path / "nothing"))
    _, error = leash.communicate(timeout=WAIT_S)

    assert leash.returncode == 127
    assert error == f"cannot start {tmp_path / 'nothing'}: No such file or directory\n"
