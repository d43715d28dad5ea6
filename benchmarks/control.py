"""How fast the control plane is: `python -m benchmarks.control`.

What clients ask for most, while invocations run; from the creation of an endpoint to its first answer; and a server
with a thousand endpoints against the same server with one.
"""

import argparse
import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from statistics import median, quantiles
from urllib.parse import urlsplit

from benchmarks import report, systems
from benchmarks.gateway import Measure, load
from benchmarks.systems import System

RESULTS = Path(__file__).parent / "results"
ENDPOINTS = "/api/2.0/serving-endpoints"
LOAD = Measure("open-500", ("--connections", "32", "--rate", "500"), 1.0)
_KEY = {"openai_api_key": "{{secrets/bench/key}}"}
Rows = list[list[str]]


class Asked:
    """One connection to a server, kept open as clients keep theirs."""

    def __init__(self, system: System) -> None:
        self._connection = HTTPConnection(urlsplit(system.url).netloc, timeout=30)

    def ms(self, method: str, path: str, body: object = None) -> float:
        """Ask, read the whole answer, and say how many milliseconds that took.

        Raises:
            SystemExit: It was not 200.
        """
        sent = None if body is None else json.dumps(body)
        began = time.perf_counter()
        self._connection.request(method, path, sent, {"content-type": "application/json"} if sent else {})
        answer = self._connection.getresponse()
        text = answer.read()
        if answer.status != 200:
            raise SystemExit(f"{method} {path}: {answer.status} {text[:300]!r}")
        return (time.perf_counter() - began) * 1000


@contextmanager
def loaded(system: System, seconds: float) -> Iterator[None]:
    """500 invocations a second, all the while."""
    running = threading.Thread(target=load, args=(system.url, LOAD, seconds))
    running.start()
    time.sleep(1.0)  # The generator has started and warmed up.
    yield
    if not running.is_alive():
        raise SystemExit("the load ended before the measurement did")
    running.join()


def timed(title: str, ask: Callable[[], float], count: int) -> list[str]:
    """A row: the median and the 99th percentile of so many requests."""
    taken = [ask() for _ in range(count)]
    return [title, f"{median(taken):.2f}", f"{quantiles(taken, n=100)[98]:.2f}"]


def requests(system: System) -> Rows:
    """What clients ask for most, with the server idle and under load."""
    asked = Asked(system)
    known, one = "/.well-known/databricks-config", f"{ENDPOINTS}/bench"
    rows = [timed(f"GET {path}, idle", partial(asked.ms, "GET", path), 300) for path in (known, one)]
    for path in (known, one):
        with loaded(system, 6.0):
            asked = Asked(system)  # A connection that nobody used for five seconds is closed.
            rows.append(timed(f"GET {path}, 500 invocations/s", partial(asked.ms, "GET", path), 300))
    return rows


def creations(system: System, direct: System, count: int) -> list[str]:
    """From the request that creates an endpoint to the whole answer of its first query."""
    asked = Asked(system)
    api_base = direct.url.removesuffix("/chat/completions")
    numbers = iter(range(count))

    def created() -> float:
        name = f"new{next(numbers)}"
        model = {"name": "m", "provider": "openai", "task": "llm/v1/chat", "openai_config": _KEY}
        entity = {"name": "a", "external_model": model, "llmops": {"api_base": api_base}}
        made = asked.ms("POST", ENDPOINTS, {"name": name, "config": {"served_entities": [entity]}})
        prompt = {"messages": [{"role": "user", "content": "hello"}]}
        return made + asked.ms("POST", f"/serving-endpoints/{name}/invocations", prompt)

    return timed("create an external endpoint and read its first answer", created, count)


def sizes(direct: System, work_dir: Path, count: int) -> Rows:
    """A server with one endpoint, and with many: start, list, memory."""
    found = []
    for number in (1, count):
        began = time.perf_counter()
        with systems.serve(systems.many(number, direct), work_dir / str(number)) as system:
            start_s, asked = time.perf_counter() - began, Asked(system)
            listed = median(asked.ms("GET", ENDPOINTS) for _ in range(10))
            found.append((start_s, listed, system.worker_rss_mb()))
    one, all_ = found
    each_kb = (all_[2] - one[2]) * 1000 / (count - 1)
    titles = ("start until /ready (s)", "list (ms, median)", "worker's memory (MB)")
    rows = [[title, f"{a:,.1f}", f"{b:,.1f}"] for title, a, b in zip(titles, one, all_, strict=True)]
    return [*rows, ["memory of each further endpoint (kB)", "", f"{each_kb:,.1f}"]]


def main() -> None:
    """Measure, print and keep the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--endpoints", type=int, default=1000)
    count = parser.parse_args().endpoints
    with tempfile.TemporaryDirectory() as name, systems.upstream() as direct:
        work_dir = Path(name)
        with systems.llmops(direct, work_dir / "control") as system:
            load(system.url, LOAD, 1.0)
            rows = [*requests(system), creations(system, direct, 50)]
        many = sizes(direct, work_dir, count)
    parts = (
        "# Control plane",
        f"{report.today()} · {report.machine()} · {report.software()}",
        "server on core 0; clients, load and upstream on core 1",
        report.table(["milliseconds", "p50", "p99"], rows),
        report.table(["", "1 endpoint", f"{count:,} endpoints"], many),
    )
    text = "\n\n".join(parts) + "\n"
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "control.md").write_text(text)
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
