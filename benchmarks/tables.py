"""How fast interactions become rows of Delta tables, and what that costs in memory: `python -m benchmarks.tables`."""

import argparse
import random
import string
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
from deltalake import DeltaTable

from benchmarks import report
from llmops.interactions.record import Interaction, new_id
from llmops.interactions.spool import Leased
from llmops.interactions.table_sink import TableSink
from llmops.protocol.usage import Usage
from llmops.settings import Settings

RESULTS = Path(__file__).parent / "results"
_TABLE = "main.default.chat_payload"


@dataclass(frozen=True, slots=True)
class Measured:
    """One series of deliveries.

    Attributes:
        memory_mb: Resident memory of the process after it.
    """

    title: str
    rows: int
    seconds: float
    text_mb: float
    disk_mb: float
    memory_mb: float


def interaction(size_bytes: int, chance: random.Random) -> Interaction:
    """An interaction whose request and response have so many bytes together, of words that do not repeat much."""
    half = size_bytes // 2
    text = " ".join("".join(chance.choices(string.ascii_lowercase, k=6)) for _ in range(min(half, 20_000) // 7))
    text = (text * (half // max(len(text), 1) + 1))[:half]
    return Interaction(
        interaction_id=new_id(),
        endpoint="chat",
        known=True,
        wire="openai",
        stream=False,
        received_ns=time.time_ns(),
        latency_ms=400.0,
        status=200,
        outcome="answered",
        request=f'{{"messages":[{{"role":"user","content":"{text}"}}]}}',
        response=f'{{"choices":[{{"message":{{"role":"assistant","content":"{text}"}}}}]}}',
        user="ada@example.com",
        usage=Usage(input_tokens=200, output_tokens=200),
        served_entity_id="a" * 32,
        payload_table=_TABLE,
        usage_tracked=True,
    )


def deliver(sink: TableSink, settings: Settings, title: str, batches: int, records: int, size_bytes: int) -> Measured:
    """Deliver batches one after the other; each is made when it is its turn, as the shipper has one at a time."""
    chance = random.Random(size_bytes)
    disk_mb, seconds, text = _disk_mb(settings), 0.0, 0
    for number in range(batches):
        made = [interaction(size_bytes, chance) for _ in range(records)]
        text += sum(len(one.request) + len(one.response or "") for one in made)
        source = Path("worker-0.db")
        leased = [Leased(one, 1, number * records + n, source, spool_id=title) for n, one in enumerate(made)]
        started = time.perf_counter()
        sink.deliver(leased)
        seconds += time.perf_counter() - started
    memory_mb = psutil.Process().memory_info().rss / 1e6
    return Measured(title, batches * records, seconds, text / 1e6, _disk_mb(settings) - disk_mb, memory_mb)


def _disk_mb(settings: Settings) -> float:
    return sum(path.stat().st_size for path in Path(settings.table_root).rglob("*.parquet")) / 1e6


def _table(measured: Sequence[Measured]) -> str:
    head = ["each record in two tables", "rows/s", "MB of text/s", "text (MB)", "on disk (MB)", "process (MB)"]
    rows = [
        [
            one.title,
            f"{one.rows / one.seconds:,.0f}",
            f"{one.text_mb / one.seconds:.0f}",
            f"{one.text_mb:.0f}",
            f"{one.disk_mb:.1f}",
            f"{one.memory_mb:.0f}",
        ]
        for one in measured
    ]
    return report.table(head, rows)


def main() -> int:
    """Deliver small, large and huge records, print and keep the table; 1 where a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000, help="of 2 kB")
    wanted = parser.parse_args().rows
    measured = []
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(data_dir=Path(folder), table_compact_every=1_000_000)
        sink = TableSink(settings)
        deliver(sink, settings, "the first, which makes the tables", 1, 1, 2048)
        many = max(wanted // 2000, 1)
        measured.append(deliver(sink, settings, f"{many * 2000:,} records of 2 kB, 2,000 a batch", many, 2000, 2048))
        measured.append(deliver(sink, settings, "1,000 records of 2 kB, 20 a batch", 50, 20, 2048))
        measured.append(deliver(sink, settings, "128 records of 1 MB, 32 a batch", 4, 32, 1 << 20))
        measured.append(deliver(sink, settings, "4 records of 32 MB, 1 a batch", 4, 1, 32 << 20))
        expected = sum(one.rows for one in measured) + 1
        found = DeltaTable(f"{settings.table_root}/{_TABLE.replace('.', '/')}").to_pyarrow_dataset().count_rows()
        sink.close()
    goals = [
        report.Goal("rows/s, records of 2 kB", measured[0].rows / measured[0].seconds, 2000),
        report.Goal("records that are rows of the payload table", found, expected),
    ]
    text = "\n".join(
        [
            "# Inference tables",
            "",
            f"{report.today()}; {report.machine()}; {report.software(('deltalake', 'pyarrow'))}",
            "",
            _table(measured),
            "",
            f"Every record is a row of the payload table and of the usage table; {found:,} of {expected:,} are there.",
            "The process is this one, with the batch it delivers; the shipper holds MLflow besides.",
            "",
            report.goals_table(goals),
            "",
        ]
    )
    return report.keep(RESULTS / "tables.md", text, goals)


if __name__ == "__main__":
    sys.exit(main())
