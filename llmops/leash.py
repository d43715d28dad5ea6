"""What ties a child process to its parent: a pipe on the child's stdin, whose end says that the parent is gone.

The parent never writes to the pipe; the kernel closes it however the parent ends, `kill -9` included. A child of ours
calls `hold`. A stranger, which knows nothing of this, is started by a small process that does:

    python -m llmops.leash COMMAND [ARGUMENT ...]
"""

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import TextIO

#: Seconds between the request to end and the end by force.
GRACE_S = 5.0

_WATCHED = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGCHLD})


def hold(*, grace_s: float = GRACE_S, at_once: bool = False) -> None:
    """Tie this process to the pipe on its stdin.

    When the pipe ends, the process gets SIGTERM, so that it can drain, and is ended by force ``grace_s`` later.

    Args:
        grace_s: Seconds for draining.
        at_once: Let the kernel end the process without any farewell. For a process whose C code holds the
            interpreter's lock for a long time (loading a model): no Python thread would see the pipe end.
    """
    if at_once:
        # SIGIO, raised by the pipe's end, ends a process that does not handle it. Where the kernel does not raise it
        # for pipes, the thread below still ends the process, only later.
        fcntl.fcntl(0, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(0, fcntl.F_SETFL, fcntl.fcntl(0, fcntl.F_GETFL) | os.O_ASYNC)
    threading.Thread(target=_watch, args=(grace_s,), name="leash", daemon=True).start()


def report_line() -> TextIO:
    """Take stdout for the one line a child writes to its parent.

    From now on whatever else writes to stdout (an engine in C) lands in stderr.

    Returns:
        The real stdout, flushed at each line; the caller owns it.
    """
    line = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    return line


def _watch(grace_s: float) -> None:
    # A closed stdin (OSError) is no leash at all: it counts as its end.
    with contextlib.suppress(OSError):
        while os.read(0, 1024):
            pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(grace_s)
    os._exit(1)


def run(command: Sequence[str]) -> int:
    """Run a stranger in a process group of its own, and end the whole group with it or with us.

    Blocks. SIGTERM, SIGINT and the end of stdin ask the group to end, then force it.

    Returns:
        The stranger's exit code; 128 + the signal's number where a signal ended it, as a shell says it.

    Raises:
        OSError: The command cannot be started.
    """
    # Blocked until the child is known: a signal in between would leave it without a master. The child unblocks them.
    signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, process_group=0, preexec_fn=_unblock)
    hold(grace_s=2 * GRACE_S)
    while (code := child.poll()) is None:
        if signal.sigwait(_WATCHED) != signal.SIGCHLD:
            code = _end(child)
            break
    # Those the stranger left behind: its workers, when it crashed or was killed.
    _signal_group(child, signal.SIGKILL)
    return code if code >= 0 else 128 - code


def _unblock() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _WATCHED)


def _end(child: subprocess.Popen[bytes]) -> int:
    _signal_group(child, signal.SIGTERM)
    try:
        return child.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        _signal_group(child, signal.SIGKILL)
        return child.wait()


def _signal_group(child: subprocess.Popen[bytes], signum: signal.Signals) -> None:
    # Nobody left is fine; macOS says "not permitted" of a group that holds only zombies.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signum)


def main() -> int:
    """Run the command line; its exit code is the stranger's."""
    command = sys.argv[1:]
    if not command:
        sys.stderr.write("usage: python -m llmops.leash COMMAND [ARGUMENT ...]\n")
        return 64
    try:
        return run(command)
    except OSError as err:
        sys.stderr.write(f"cannot start {command[0]}: {err.strerror}\n")
        return 127


if __name__ == "__main__":
    sys.exit(main())
