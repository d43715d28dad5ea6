"""A million interactions wait: how fast are they drained, and how much memory does that take?

    python -m benchmarks.backlog [--records 1000000] [--seconds 60]

Fills one spool with records of about 2 kB, then measures, each in a process of its own: how long it takes to learn the
depth, the shipper itself with MLflow and the tables for a while, and the spool alone with a sink that only counts.
"""

import argparse
import resource
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import orjson
import psutil

from benchmarks import report
from llmops.interactions.consumer import Route
from llmops.interactions.record import Interaction, new_id
from llmops.interactions.shipper import Shipper
from llmops.interactions.sink import Delivered, Outcome
from llmops.interactions.spool import Leased, Spool
from llmops.interactions.spool_file import NEXT_SEQ
from llmops.interactions.spool_size import measure
from llmops.settings import Settings
from tests.interactions.records import plain

CHUNK = 20_000
PAYLOAD = "x" * 700
LARGE_OF = 5000
RESULTS = Path(__file__).parent / "results"


class Counting:
    """A sink that takes everything and keeps nothing."""

    name = "counting"
    batch = 500
    linger_s = 0.0

    def __init__(self) -> None:
        self.count = 0

    def open(self) -> None:
        """Always ready."""

    def deliver(self, batch: Sequence[Leased[Interaction]]) -> list[Outcome]:
        """Count."""
        self.count += len(batch)
        return [Delivered()] * len(batch)


def fill(path: Path, records: int) -> float:
    """Append so many records, in large transactions; returns the size of one in bytes."""
    with closing(Spool[Interaction](path)):
        pass
    one = replace(plain(), payload_table="main.default.chat_payload", usage_tracked=True)
    large = replace(one, request=one.request.replace("What", "x" * 1_000_000))
    one = replace(one, request=one.request.replace("What", PAYLOAD))
    now_ms, size = time.time_ns() // 1_000_000, len(one.encode())

    def rows(count: int) -> Iterator[tuple[bytes, int]]:
        for number in range(count):
            yield replace(one if (number + 1) % LARGE_OF else large, interaction_id=new_id()).encode(), now_ms

    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        for start in range(0, records, CHUNK):
            database.execute("BEGIN")
            database.executemany(
                f"INSERT INTO record (seq, content, written_ms) VALUES ({NEXT_SEQ}, ?, ?)",
                rows(min(CHUNK, records - start)),
            )
            database.execute("COMMIT")
    return size


def _peak_mb() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


def measure_depth(data_dir: Path) -> dict[str, float]:
    """How long one look at the size takes."""
    path = data_dir / "spool" / "worker-0.db"
    began = time.perf_counter()
    size = measure(path)
    return {"depth": size.depth, "first_look_ms": round((time.perf_counter() - began) * 1000, 3), "peak_mb": _peak_mb()}


def drain_counting(data_dir: Path) -> dict[str, float]:
    """Drain with a sink that only counts."""
    settings, counting = Settings(data_dir=data_dir), Counting()
    route = Route(settings.spool_dir, Interaction.decode, lambda one: one, [counting])
    began = time.perf_counter()
    Shipper(settings, [route]).drain(time.monotonic() + 3600)
    took_s = time.perf_counter() - began
    return {"records": counting.count, "per_s": round(counting.count / took_s), "peak_mb": _peak_mb()}


def ship(data_dir: Path, seconds: float) -> dict[str, float]:
    """Let the shipper itself, as the server starts it, bring records to MLflow and the tables for a while."""
    command = [sys.executable, "-m", "llmops.interactions.shipper", "--data-dir", str(data_dir), "--grace", "0"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        shipper, peak = psutil.Process(process.pid), 0
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and process.poll() is None:
            peak = max(peak, shipper.memory_info().rss)
            time.sleep(0.02)
        told = {
            state["name"]: state["shipped"] for state in orjson.loads((data_dir / "shipper.json").read_bytes())["sinks"]
        }
        process.terminate()
    return {**told, "peak_mb": round(peak / 1e6, 1)}


def goals(found: Mapping[str, Mapping[str, float]]) -> list[report.Goal]:
    """What was asked for."""
    return [report.Goal("memory of the shipper", found["ship"]["peak_mb"], 400, "MB", at_most=True)]


def describe(found: Mapping[str, Mapping[str, float]], records: int, size: float, seconds: float) -> str:
    """The report, as Markdown."""
    ship_, drained = found["ship"], found["drained"]
    rows = [
        ["records waiting", f"{records:,}"],
        ["bytes of one", f"{size:,.0f}"],
        ["one look at the depth (ms)", f"{found['depth']['first_look_ms']:.1f}"],
        [f"to MLflow in {seconds:.0f} s, from the start of its process", f"{ship_['mlflow']:,.0f}"],
        ["to the tables in the same time", f"{ship_['tables']:,.0f}"],
        ["the shipper's memory at most (MB)", f"{ship_['peak_mb']:,.0f}"],
        ["drained into a sink that only counts (records/s)", f"{drained['per_s']:,.0f}"],
        ["memory of that at most (MB)", f"{drained['peak_mb']:,.0f}"],
    ]
    parts = (
        "# A backlog",
        f"{report.today()} · {report.machine()} · {report.software(('mlflow', 'deltalake', 'pyarrow'))}",
        f"each record goes to MLflow and to two tables; one in {LARGE_OF:,} holds a megabyte",
        report.table(["", ""], rows),
        report.goals_table(goals(found)),
    )
    return "\n\n".join(parts) + "\n"


def main() -> int:
    """Measure, print and keep the report; 1 where a goal is missed."""
    parser = argparse.ArgumentParser(prog="benchmarks.backlog")
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=60.0, help="for how long the shipper itself runs")
    given = parser.parse_args()
    found: dict[str, dict[str, float]] = {}
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as pool,
    ):
        data_dir = Path(folder)
        size = pool.submit(fill, data_dir / "spool" / "worker-0.db", given.records).result()
        found["depth"] = pool.submit(measure_depth, data_dir).result()
        found["ship"] = ship(data_dir, given.seconds)
        found["drained"] = pool.submit(drain_counting, data_dir).result()
    text = describe(found, given.records, size, given.seconds)
    return report.keep(RESULTS / "backlog.md", text, goals(found))


if __name__ == "__main__":
    sys.exit(main())
