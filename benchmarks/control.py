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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Timed:
    """The median and the 99th percentile of many requests, in milliseconds."""

    title: str
    p50: float
    p99: float


@dataclass(frozen=True, slots=True)
class Sized:
    """A server with so many endpoints."""

    start_s: float
    list_ms: float
    memory_mb: float


def timed(title: str, ask: Callable[[], float], count: int) -> Timed:
    """Ask so many times."""
    taken = [ask() for _ in range(count)]
    return Timed(title, median(taken), quantiles(taken, n=100)[98])


def requests(system: System) -> list[Timed]:
    """What clients ask for most, with the server idle and under load."""
    asked = Asked(system)
    known, one = "/.well-known/databricks-config", f"{ENDPOINTS}/bench"
    rows = [timed(f"GET {path}, idle", partial(asked.ms, "GET", path), 300) for path in (known, one)]
    for path in (known, one):
        with loaded(system, 6.0):
            asked = Asked(system)  # A connection that nobody used for five seconds is closed.
            rows.append(timed(f"GET {path}, 500 invocations/s", partial(asked.ms, "GET", path), 300))
    return rows


def creations(system: System, direct: System, count: int) -> Timed:
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


def sizes(direct: System, work_dir: Path, count: int) -> tuple[Sized, Sized]:
    """A server with one endpoint, and with many."""
    found = []
    for number in (1, count):
        began = time.perf_counter()
        with systems.serve(systems.many(number, direct), work_dir / str(number)) as system:
            start_s, asked = time.perf_counter() - began, Asked(system)
            listed = median(asked.ms("GET", ENDPOINTS) for _ in range(10))
            found.append(Sized(start_s, listed, system.worker_rss_mb()))
    return found[0], found[1]


def goals(rows: Sequence[Timed], all_: Sized, each_kb: float) -> list[report.Goal]:
    """What was asked for."""
    loaded_rows = [row for row in rows if row.title.endswith("invocations/s")]
    return [
        *(report.Goal(f"{row.title}: median", row.p50, 2.0, "ms", at_most=True) for row in loaded_rows),
        report.Goal(f"{rows[-1].title}: median", rows[-1].p50, 1000, "ms", at_most=True),
        report.Goal("1,000 endpoints: list", all_.list_ms, 100, "ms", at_most=True),
        report.Goal("1,000 endpoints: start", all_.start_s, 5, "s", at_most=True),
        report.Goal("memory of each idle endpoint", each_kb, 50, "kB", at_most=True),
    ]


def main() -> int:
    """Measure, print and keep the tables; 1 where a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--endpoints", type=int, default=1000)
    count = parser.parse_args().endpoints
    with tempfile.TemporaryDirectory() as name, systems.upstream() as direct:
        work_dir = Path(name)
        with systems.llmops(direct, work_dir / "control") as system:
            load(system.url, LOAD, 1.0)
            rows = [*requests(system), creations(system, direct, 50)]
        one, all_ = sizes(direct, work_dir, count)
    each_kb = (all_.memory_mb - one.memory_mb) * 1000 / (count - 1)
    asked_for = goals(rows, all_, each_kb)
    measured = [
        ["start until /ready (s)", f"{one.start_s:,.1f}", f"{all_.start_s:,.1f}"],
        ["list (ms, median)", f"{one.list_ms:,.1f}", f"{all_.list_ms:,.1f}"],
        ["worker's memory (MB)", f"{one.memory_mb:,.1f}", f"{all_.memory_mb:,.1f}"],
        ["memory of each further endpoint (kB)", "", f"{each_kb:,.1f}"],
    ]
    parts = (
        "# Control plane",
        f"{report.today()} · {report.machine()} · {report.software()}",
        "server on core 0; clients, load and upstream on core 1",
        report.table(["milliseconds", "p50", "p99"], [[row.title, f"{row.p50:.2f}", f"{row.p99:.2f}"] for row in rows]),
        report.table(["", "1 endpoint", f"{count:,} endpoints"], measured),
        report.goals_table(asked_for),
    )
    return report.keep(RESULTS / "control.md", "\n\n".join(parts) + "\n", asked_for)


if __name__ == "__main__":
    sys.exit(main())
