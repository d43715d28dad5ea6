"""One process that is kept alive: started, watched, started again with back-off, and ended with its whole tree.

A process that serves others over HTTP reports its address in one line on stdout (or why it cannot start); from then
on it is asked for its health. Every process holds a pipe to us on its stdin: when we are gone, it goes too.
"""

import asyncio
import logging
import os
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from llmops.endpoints.store import Child
from llmops.errors import UpstreamError
from llmops.providers.upstream import Upstreams

logger = logging.getLogger(__name__)

FIRST_DELAY_S = 0.5
LONGEST_DELAY_S = 60.0
#: A process that lived this long starts again after the first delay only.
HEALTHY_AFTER_S = 30.0
HEALTH_EVERY_S = 10.0
HEALTH_LIMIT_S = 5.0
UNHEALTHY_AFTER = 3
#: Who waits for a process waits this long for its next start, too.
SOON_S = 4.0


@dataclass(frozen=True, slots=True)
class Command:
    """What to run.

    Attributes:
        name: Names the log file and the log lines.
        arguments: Of this Python: ``-m module …``.
        niceness: 19 for what must not take a core from the workers.
        reports: Whether the process writes its address to stdout.
        keys: Whether its environment holds the keys of endpoints.
    """

    name: str
    arguments: tuple[str, ...]
    niceness: int = 0
    reports: bool = False
    pass_fds: tuple[int, ...] = ()
    keys: bool = False


class Supervised:
    """Keeps one command running until `stop`.

    Args:
        log_dir: Gets ``<name>.log``.
        tell: Called with every change of state of a process that reports.
        alive: Asks a process that does not report whether it still works; None where there is no way to know.
        look_every_s: How often a process is asked for its health.
    """

    def __init__(
        self,
        command: Command,
        environment: dict[str, str],
        log_dir: Path,
        upstreams: Upstreams,
        tell: Callable[[Child], None] = lambda _: None,
        alive: Callable[[], Awaitable[bool]] | None = None,
        look_every_s: float = HEALTH_EVERY_S,
    ) -> None:
        self._command = command
        self._environment = environment
        self._log_path = log_dir / f"{command.name}.log"
        self._upstreams = upstreams
        self._listener = tell
        self._alive = alive
        self._look_every_s = look_every_s
        self._process: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None
        self._reason = ""
        self._answered = False

    @property
    def pid(self) -> int | None:
        """The process that runs, or ran last."""
        return self._process.pid if self._process is not None else None

    def start(self) -> None:
        """Begin to keep it running."""
        self._task = asyncio.create_task(self._keep(), name=self._command.name)

    async def stop(self, grace_s: float) -> None:
        """End it: SIGTERM, and SIGKILL when the grace is over."""
        if self._task is not None:
            self._task.cancel()
            # Whatever it ended with is logged already; the process must be ended all the same.
            await asyncio.gather(self._task, return_exceptions=True)
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            async with asyncio.timeout(grace_s):
                await process.wait()
        except TimeoutError:
            logger.warning("event=killed process=%s grace_s=%g", self._command.name, grace_s)
        finally:
            # Also where nobody waits any more.
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    process.kill()

    def _tell(self, child: Child) -> None:
        try:
            self._listener(child)
        except Exception:
            # The outer wall: a store that is locked for long must not end the watch over a process.
            logger.exception("event=state_not_told process=%s state=%s", child.key, child.state)

    async def _keep(self) -> None:
        delay_s = FIRST_DELAY_S
        while True:
            began = time.monotonic()
            try:
                await self._run()
            except OSError as err:
                self._reason = f"cannot be started: {err}"
            delay_s = FIRST_DELAY_S if time.monotonic() - began > HEALTHY_AFTER_S else min(delay_s * 2, LONGEST_DELAY_S)
            logger.error(
                "event=process_ended process=%s reason=%r restart_in_s=%g log=%s",
                *(self._command.name, self._reason, delay_s, self._log_path),
            )
            # One that answered and is back in a moment has not failed: requests wait for it.
            state = "starting" if self._answered and delay_s <= SOON_S else "failed"
            self._tell(Child(self._command.name, state, None, f"{self._reason} (see {self._log_path})"))
            # `stop` cancels this task; nothing is started after it.
            await asyncio.sleep(delay_s)

    async def _run(self) -> None:
        """Run the process once, to its end."""
        command, self._reason, self._answered = self._command, "", False
        with self._log_path.open("ab") as log:
            self._process = process = await asyncio.create_subprocess_exec(
                sys.executable,
                *command.arguments,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE if command.reports else log,
                stderr=log,
                env=self._environment,
                pass_fds=command.pass_fds,
                # A group of its own: Ctrl-C in a terminal is for the supervisor alone, which ends things in order.
                process_group=0,
            )
        if command.niceness:
            os.setpriority(os.PRIO_PROCESS, process.pid, command.niceness)
        if command.reports:
            await self._follow(process)
        elif self._alive is not None:
            await self._watch(process, self._alive)
        code = await process.wait()
        self._reason = self._reason or f"{command.name} exited with {code}"

    async def _follow(self, process: asyncio.subprocess.Process) -> None:
        """Wait for the address, then watch the health until the process ends."""
        self._tell(Child(self._command.name, "starting"))
        assert process.stdout is not None  # noqa: S101 - it was opened as a pipe
        report = _report(await process.stdout.readline())
        if "address" not in report:
            self._reason = str(report.get("error") or "")
            return
        address = str(report["address"])
        logger.info("event=process_ready process=%s address=%s", self._command.name, address)
        self._answered = True
        self._tell(Child(self._command.name, "ready", address))
        await self._watch(process, lambda: self._healthy(address))

    async def _watch(self, process: asyncio.subprocess.Process, alive: Callable[[], Awaitable[bool]]) -> None:
        """Watch the health of a process until it ends; end it where it does not answer any more."""
        failures = 0
        while process.returncode is None and failures < UNHEALTHY_AFTER:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._look_every_s):
                    await process.wait()
                return
            failures = 0 if await alive() else failures + 1
        self._reason = f"did not answer {failures} health checks in a row"
        # Not terminate: one that is stopped or hangs would not hear it.
        process.kill()

    async def _healthy(self, address: str) -> bool:
        try:
            status, _, _ = await self._upstreams.fetch("GET", f"{address}/health", {}, None, HEALTH_LIMIT_S, "it")
        except UpstreamError:
            return False
        return status == 200


def _report(line: bytes) -> dict[str, Any]:
    try:
        report = orjson.loads(line)
    except ValueError:
        return {}
    return report if isinstance(report, dict) else {}
