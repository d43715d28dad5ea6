"""A million interactions wait: how fast are they drained, and how much memory does that take?

    python -m benchmarks.backlog [--records 1000000] [--mlflow-seconds 30]

Fills one spool with records of about 2 kB, then measures, each in a process of its own: how long it takes to learn the
depth, the spool alone with a sink that only counts, and the real MLflow sink for a while. Prints JSON.
"""

import argparse
import resource
import sqlite3
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import orjson

from llmops.interactions.consumer import Route
from llmops.interactions.record import Interaction, new_id
from llmops.interactions.shipper import Shipper, routes
from llmops.interactions.sink import Delivered, Outcome
from llmops.interactions.spool import Leased, Spool
from llmops.interactions.spool_file import NEXT_SEQ
from llmops.interactions.spool_size import measure
from llmops.settings import Settings
from tests.interactions.records import plain

CHUNK = 20_000
PAYLOAD = "x" * 700


class Counting:
    """A sink that takes everything and keeps nothing."""

    batch = 500
    linger_s = 0.0

    def __init__(self, name: str = "counting") -> None:
        self.name = name
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
    one = plain()
    one = replace(one, request=one.request.replace("What", PAYLOAD))
    now_ms, size = time.time_ns() // 1_000_000, len(one.encode())

    def rows(count: int) -> Iterator[tuple[bytes, int]]:
        for _ in range(count):
            yield replace(one, interaction_id=new_id()).encode(), now_ms

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


def drain_counting(data_dir: Path, sinks: int) -> dict[str, float]:
    """Drain with sinks that only count."""
    settings = Settings(data_dir=data_dir)
    counting = [Counting(f"counting-{number}") for number in range(sinks)]
    route = Route(settings.spool_dir, Interaction.decode, lambda one: one, counting)
    before_mb, began = _peak_mb(), time.perf_counter()
    Shipper(settings, [route]).drain(time.monotonic() + 3600)
    took_s, count = time.perf_counter() - began, counting[0].count
    return {"records": count, "per_s": round(count / took_s), "before_mb": before_mb, "peak_mb": _peak_mb()}


def ship_mlflow(data_dir: Path, seconds: float) -> dict[str, float]:
    """Ship to MLflow for a while."""
    settings = Settings(data_dir=data_dir)
    shipper, stop = Shipper(settings, routes(settings)), threading.Event()
    mlflow = shipper.consumers[0]
    thread = threading.Thread(target=shipper.run, args=(stop, 0.0))
    thread.start()
    while mlflow.state.state != "ready":
        time.sleep(0.05)
    began, before = time.perf_counter(), mlflow.state.shipped
    stop.wait(seconds)
    count, took_s = mlflow.state.shipped - before, time.perf_counter() - began
    stop.set()
    thread.join()
    return {"records": count, "per_s": round(count / took_s), "peak_mb": _peak_mb()}


def main() -> int:
    """Measure, and print JSON."""
    parser = argparse.ArgumentParser(prog="benchmarks.backlog")
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--mlflow-seconds", type=float, default=30.0)
    given = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as pool,
    ):
        data_dir = Path(folder)
        path = data_dir / "spool" / "worker-0.db"
        began = time.perf_counter()
        size = pool.submit(fill, path, given.records).result()
        result: dict[str, object] = {
            "records": given.records,
            "record_bytes": size,
            "fill_s": round(time.perf_counter() - began, 1),
            "file_mb": round(path.stat().st_size / 1e6),
            "depth": pool.submit(measure_depth, data_dir).result(),
        }
        result["mlflow"] = pool.submit(ship_mlflow, data_dir, given.mlflow_seconds).result()
        result["one_counting_sink"] = pool.submit(drain_counting, data_dir, 1).result()
        pool.submit(fill, path, given.records // 4).result()
        result["two_counting_sinks"] = pool.submit(drain_counting, data_dir, 2).result()
        result["file_mb_after"] = round(path.stat().st_size / 1e6)
    sys.stdout.buffer.write(orjson.dumps(result, option=orjson.OPT_INDENT_2) + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
