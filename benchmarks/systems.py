"""The systems a benchmark compares: started on a core of their own, frozen while another is measured, and stopped.

A system is a process tree behind a URL, tied to us by a pipe (llmops.leash): none outlives its benchmark.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

import orjson
import psutil

#: Where the system under test runs, and where what feeds it does.
SYSTEM_CORE, FEED_CORE = 0, 1

_CHAT = "/v1/chat/completions"
_START_S = 60.0
_STOP_S = 60.0
_LEASH = (sys.executable, "-m", "llmops.leash")
#: What the caller's shell says about another server must not reach this one.
_CLEAN = ("env", "-u", "MLFLOW_TRACKING_URI", "-u", "LLMOPS_TOKEN", "LLMOPS_SECRET_BENCH_KEY=x")
_SERVE = (*_CLEAN, sys.executable, "-c", "from llmops.cli.main import main; main()", "serve")
_ENDPOINT = """\
name: bench
config:
  served_entities:
    - name: fixed
      external_model:
        name: m
        provider: openai
        task: llm/v1/chat
        openai_config:
          openai_api_key: "{{{{secrets/bench/key}}}}"
      llmops:
        api_base: {url}/v1
"""
#: The same, with nothing recorded of it.
_UNLOGGED = _ENDPOINT.replace("name: bench", "name: unlogged", 1) + "llmops: {{log: nothing}}\n"


@dataclass(frozen=True, slots=True)
class System:
    """A running system.

    Attributes:
        url: Where a chat request is sent.
        root: Holds the leash of the tree that answers there.
    """

    name: str
    url: str
    root: psutil.Process

    def freeze(self) -> None:
        """Stop every process where it stands: a shipper that drains must not slow down its neighbour."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let every process go on."""
        self._signal(signal.SIGCONT)

    def worker_rss_mb(self) -> float:
        """Resident memory of the process that answers requests: of those that listen there, the busiest."""
        port = urlsplit(self.url).port
        listening = [process for process in self._tree() if port in _ports(process)]
        return float(max(listening, key=lambda process: sum(process.cpu_times()[:2])).memory_info().rss / 1e6)

    def stop(self) -> None:
        """Ask the system to end, and wait until it has."""
        tree = self._tree()
        self.thaw()
        for process in tree[:1]:
            process.terminate()
        psutil.wait_procs(tree, _STOP_S)

    def _signal(self, signum: signal.Signals) -> None:
        for process in self._tree():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signum)

    def _tree(self) -> list[psutil.Process]:
        return list(self.root.children(recursive=True))


@contextmanager
def upstream() -> Iterator[System]:
    """The fixed upstream, measured directly: it shares its core with the load."""
    with _leashed([sys.executable, "-m", "benchmarks.upstream"], FEED_CORE) as process:
        yield System("direct", _address(process) + _CHAT, psutil.Process(process.pid))


@contextmanager
def passthrough(direct: System) -> Iterator[System]:
    """The bare pass-through."""
    command = [sys.executable, "-m", "benchmarks.passthrough", "--upstream", direct.url]
    with _leashed(command, SYSTEM_CORE) as process:
        yield System("passthrough", _address(process) + _CHAT, psutil.Process(process.pid))


def llmops(direct: System, work_dir: Path) -> AbstractContextManager[System]:
    """This server, its log on, with the endpoint ``bench`` in front of the upstream; see `serve`."""
    url = direct.url.removesuffix(_CHAT)
    return serve({"bench": _ENDPOINT.format(url=url), "unlogged": _UNLOGGED.format(url=url)}, work_dir)


def many(count: int, direct: System) -> dict[str, str]:
    """The files of so many external endpoints in front of the upstream, by name."""
    document = _ENDPOINT.format(url=direct.url.removesuffix(_CHAT))
    return {name: document.replace("bench", name, 1) for name in ("bench", *(f"e{n}" for n in range(1, count)))}


@contextmanager
def serve(endpoints: Mapping[str, str], work_dir: Path) -> Iterator[System]:
    """This server; its URL is the one of the endpoint ``bench``.

    Args:
        endpoints: Files, by the name of their endpoint.
        work_dir: Gets ``configs``, ``data`` and the server's ``server.log``.

    Raises:
        RuntimeError: It does not become ready; the message is the end of its logs.
    """
    configs, log, port = work_dir / "configs", work_dir / "server.log", _free_port()
    configs.mkdir(parents=True)
    for name, document in endpoints.items():
        (configs / f"{name}.yaml").write_text(document)
    flags = ["--port", str(port), "--no-mlflow-ui", "--data-dir", str(data_dir(work_dir)), "--configs", str(configs)]
    with log.open("wb") as written, _leashed([*_SERVE, *flags], SYSTEM_CORE, written) as process:
        address = f"http://127.0.0.1:{port}"
        _wait_ready(f"{address}/ready", process, work_dir)
        yield System("llmops", f"{address}/serving-endpoints/bench/invocations", psutil.Process(process.pid))


def unlogged(logged: System) -> System:
    """The same server, asked for the endpoint of which nothing is recorded."""
    return System("log off", logged.url.replace("/bench/", "/unlogged/"), logged.root)


def parts(part: str, root: psutil.Process) -> list[psutil.Process]:
    """The processes of a tree whose command line holds a text."""
    return [process for process in root.children(recursive=True) if part in " ".join(process.cmdline())]


def move(part: str, root: psutil.Process, core: int) -> None:
    """Keep such processes on another core, where that is possible."""
    for process in parts(part, root):
        if pinned():
            process.cpu_affinity([core])


@contextmanager
def still(part: str, root: psutil.Process) -> Iterator[None]:
    """Stop such processes where they stand, for a while."""
    stopped = parts(part, root)
    for process in stopped:
        process.suspend()
    try:
        yield
    finally:
        for process in stopped:
            process.resume()


def data_dir(work_dir: Path) -> Path:
    """Where `llmops` keeps its data."""
    return work_dir / "data"


def busy_cores(seconds: float = 0.5) -> float:
    """How many cores are busy now, over that time; the caller's systems are frozen or idle."""
    return float(psutil.cpu_percent(seconds) * (psutil.cpu_count() or 1) / 100)


def pinned() -> bool:
    """Whether processes can be kept on the two cores here."""
    return hasattr(os, "sched_setaffinity") and {SYSTEM_CORE, FEED_CORE} <= os.sched_getaffinity(0)


def command_on(core: int, command: Sequence[str], **options: Any) -> "subprocess.Popen[bytes]":
    """Start a process that stays on one core with all it starts, where that is possible."""
    if not pinned():
        return subprocess.Popen(command, **options)
    ours = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})  # A child inherits it.
    try:
        return subprocess.Popen(command, **options)
    finally:
        os.sched_setaffinity(0, ours)


@contextmanager
def _leashed(command: Sequence[str], core: int, log: IO[bytes] | None = None) -> Iterator["subprocess.Popen[bytes]"]:
    """A process that ends with us however we end; its stdout is a pipe, or goes to the log with stderr."""
    pipe = subprocess.PIPE
    process = command_on(core, [*_LEASH, *command], stdin=pipe, stdout=log or pipe, stderr=log)
    with process:
        try:
            yield process
        finally:
            System("", "", psutil.Process(process.pid)).stop()


def _address(process: "subprocess.Popen[bytes]") -> str:
    assert process.stdout is not None
    return str(orjson.loads(process.stdout.readline())["address"])


def _wait_ready(url: str, process: "subprocess.Popen[bytes]", work_dir: Path) -> None:
    until = time.monotonic() + _START_S
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=2):
            return
        time.sleep(0.1)
    logs = "\n\n".join(f"{log}:\n{log.read_text(errors='replace')[-1000:]}" for log in work_dir.rglob("*.log"))
    raise RuntimeError(f"llmops serve is not ready\n\n{logs}")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _ports(process: psutil.Process) -> set[int]:
    with contextlib.suppress(psutil.Error):
        return {entry.laddr.port for entry in process.net_connections("tcp") if entry.status == psutil.CONN_LISTEN}
    return set()
