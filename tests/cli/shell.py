"""Runs the command line as people do: from a script with pipes, or in a terminal."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pexpect

ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-m", "llmops.cli.main")


def environment(url: str, **more: str) -> dict[str, str]:
    """What a command sees: this server, and nothing of the shell the tests run in."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    own = {"LLMOPS_HOST": url, "LANG": "C.UTF-8", "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"}
    return kept | own | more


def llmops(
    url: str, *args: str, piped: bytes = b"", more: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, with these bytes in its pipe."""
    env = environment(url, **(more or {}))
    done = subprocess.run([*COMMAND, *args], input=piped, capture_output=True, env=env, cwd=ROOT, timeout=20)
    return subprocess.CompletedProcess(args, done.returncode, done.stdout.decode(), done.stderr.decode())


def start(url: str, *args: str) -> subprocess.Popen[bytes]:
    """Start a command; the test ends it."""
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [*COMMAND, *args], stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, env=environment(url), cwd=ROOT
    )


def terminal(url: str, *args: str, columns: int = 100, more: Mapping[str, str] | None = None) -> Any:
    """Run a command in a real terminal; the result is what pexpect spawns."""
    env: Any = environment(url, **(more or {}))
    command, *first = COMMAND
    return pexpect.spawn(
        command, [*first, *args], env=env, cwd=str(ROOT), encoding="utf-8", timeout=60, dimensions=(24, columns)
    )
