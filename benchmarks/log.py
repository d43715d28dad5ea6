"""How many interactions a second reach MLflow: `python -m benchmarks.log`.

The SQL writer and MLflow's public client write the same interactions into the same database in turn. PostgreSQL takes
part where LLMOPS_TEST_POSTGRES_URL names a server; its database is made and dropped.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

import psycopg2

from benchmarks import report
from llmops.interactions.mlflow_sink import MlflowSink
from llmops.interactions.record import Attempt, Interaction, new_id
from llmops.interactions.shipper import spare_the_collector
from llmops.interactions.sink import Delivered
from llmops.interactions.spool import Leased
from llmops.protocol.usage import Usage
from llmops.settings import Settings

RESULTS = Path(__file__).parent / "results"
#: Records of one measurement of speed along the way.
WINDOW = 5000
BODY_BYTES = 1000
_DATABASE = "llmops_bench_log"


@dataclass(frozen=True, slots=True)
class Measured:
    """What one database took.

    Attributes:
        rates: Interactions a second of the SQL writer, for each WINDOW in turn.
        late_rates: The same for the last of them, with many interactions there already; empty where none were.
        client_rate: Of MLflow's public client.
    """

    database: str
    rates: list[float]
    late_rates: list[float]
    client_rate: float

    @property
    def rate(self) -> float:
        """All windows together."""
        return len(self.rates) / sum(1 / rate for rate in self.rates)


def interaction(number: int) -> Interaction:
    """A chat of two kilobytes that the second served entity answered: a trace of three spans."""
    request = {"messages": [{"role": "user", "content": "spool " * (BODY_BYTES // 6)}], "temperature": 0.2}
    answer = {"role": "assistant", "content": "thread " * (BODY_BYTES // 7)}
    latency_ms = 5 + number * 7919 % 10_007 / 10
    down = Attempt("down", "openai", "gpt-4o-mini", 0.5, 1.5, None, "connect", "nobody listens", "next")
    return Interaction(
        interaction_id=new_id(),
        endpoint=f"chat-{number % 4}",
        known=True,
        wire="openai",
        stream=False,
        received_ns=time.time_ns(),
        latency_ms=latency_ms,
        status=200,
        outcome="answered",
        request=json.dumps(request),
        response=json.dumps({"choices": [{"index": 0, "finish_reason": "stop", "message": answer}]}),
        first_byte_ms=latency_ms,
        client_request_id=f"request-{number}",
        endpoint_id="e" * 32,
        served_entity="gpt",
        provider="openai",
        model="gpt-4o-mini",
        task="llm/v1/chat",
        user=f"user-{number % 100}",
        session=f"session-{number // 10}",
        usage=Usage(input_tokens=170, output_tokens=145),
        cost_usd=0.0001125,
        attempts=(down, replace(down, served_entity="gpt", status=200, error=None, message=None, decision="answered")),
        params={"temperature": 0.2},
    )


def write(sink: MlflowSink, count: int) -> list[float]:
    """Write interactions through the sink as the shipper does; how many a second, window by window.

    Args:
        count: A multiple of WINDOW.
    """
    rates = []
    for start in range(0, count, WINDOW):
        taken_s = 0.0
        for first in range(start, start + WINDOW, sink.batch):
            numbers = range(first, min(first + sink.batch, start + WINDOW))
            batch = [Leased(interaction(number), 1, number, Path("bench")) for number in numbers]
            began = time.perf_counter()
            outcomes = sink.deliver(batch)
            taken_s += time.perf_counter() - began
            if set(outcomes) != {Delivered()}:
                raise SystemExit(f"not delivered: {outcomes[0]}")
        rates.append(WINDOW / taken_s)
        sys.stderr.write(f"{start + WINDOW:>8} {rates[-1]:,.0f}/s\n")
    return rates


def client_rate(settings: Settings, count: int) -> float:
    """Log the same with MLflow's public client, in a process of its own: it loads much that no shipper has."""
    where = (str(settings.data_dir), settings.tracking_uri, str(count))
    ran = subprocess.run([sys.executable, "-m", "benchmarks.by_hand", *where], check=True, stdout=subprocess.PIPE)
    return float(ran.stdout)


def measure(name: str, settings: Settings, count: int, there: int, by_client: int) -> Measured:
    """Measure one empty database.

    Args:
        there: How many interactions are to be there before the speed is measured again; 0 leaves that out.
    """
    sys.stderr.write(f"{name}\n")
    sink = MlflowSink(settings)
    sink.open()
    if sink.notice:
        raise SystemExit(sink.notice)
    spare_the_collector()
    rates = write(sink, count)
    client = client_rate(settings, by_client)
    late = write(sink, max(0, there - count) + WINDOW)[-1:] if there else []
    return Measured(name, rates, late, client)


@contextmanager
def postgres(server: str) -> Iterator[str]:
    """An empty database, dropped afterwards."""
    connection = psycopg2.connect(server)
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            cursor.execute(f"DROP DATABASE IF EXISTS {_DATABASE}")
            cursor.execute(f"CREATE DATABASE {_DATABASE}")
            yield urlsplit(server)._replace(scheme="postgresql+psycopg2", path=f"/{_DATABASE}").geturl()
            cursor.execute(f"DROP DATABASE {_DATABASE} WITH (FORCE)")
    finally:
        connection.close()


def table(all_measured: Sequence[Measured], there: int) -> str:
    """What was measured, database by database."""
    rows = [
        ["SQL writer (interactions/s)"],
        ["MLflow's public client (interactions/s)"],
        ["SQL writer / public client"],
    ]
    rows += [
        [f"first {WINDOW:,} (interactions/s)"],
        [f"{WINDOW:,} with {there:,} there (interactions/s)"],
        ["late / first"],
    ]
    for one in all_measured:
        late = one.late_rates[0] if one.late_rates else None
        cells = [f"{one.rate:,.0f}", f"{one.client_rate:.1f}", f"{one.rate / one.client_rate:.0f}"]
        cells += [f"{one.rates[0]:,.0f}", f"{late:,.0f}" if late else "", f"{late / one.rates[0]:.2f}" if late else ""]
        for row, cell in zip(rows, cells, strict=True):
            row.append(cell)
    return report.table(["", *(one.database for one in all_measured)], rows)


def goals(measured: Measured) -> list[report.Goal]:
    """What was asked for of one database."""
    name = measured.database
    found = [report.Goal(f"{name}: SQL writer", measured.rate, 1000, "interactions/s")]
    if name == "SQLite":
        ratio = measured.rate / measured.client_rate
        found.append(report.Goal(f"{name}: SQL writer / public client", ratio, 100))
    if measured.late_rates:
        found.append(report.Goal(f"{name}: late / first", measured.late_rates[0] / measured.rates[0], 0.7))
    return found


def main() -> int:
    """Measure SQLite, and PostgreSQL where there is one; print and keep the table. 1 where a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=50_000, help=f"interactions, a multiple of {WINDOW}")
    parser.add_argument("--there", type=int, default=200_000, help="there before the last are measured; 0: not")
    parser.add_argument("--by-client", type=int, default=100, help="interactions of the public client")
    options = parser.parse_args()
    # A benchmark of the log, not of the telemetry of others.
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "true"
    all_measured = []
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(data_dir=Path(folder))
        all_measured.append(measure("SQLite", settings, options.count, options.there, options.by_client))
    server = os.environ.get("LLMOPS_TEST_POSTGRES_URL")
    if server:
        with postgres(server) as uri, tempfile.TemporaryDirectory() as folder:
            settings = Settings(data_dir=Path(folder), mlflow_tracking_uri=uri)
            all_measured.append(measure("PostgreSQL", settings, options.count, options.there, options.by_client))
    parts = (
        "# The interaction log",
        f"{report.today()} · {report.machine()} · {report.software(('mlflow', 'sqlalchemy', 'psycopg2-binary'))}",
        f"{options.count:,} interactions of 2 kB, each a run and a trace of 3 spans, 10 to a session, over 4 "
        f"endpoints, in batches of 500; {options.by_client} by the public client into the same database in the same "
        "run",
        table(all_measured, options.there),
        report.goals_table(asked_for := [goal for one in all_measured for goal in goals(one)]),
        *([] if server else ["PostgreSQL was not measured: LLMOPS_TEST_POSTGRES_URL names none."]),
    )
    return report.keep(RESULTS / "log.md", "\n\n".join(parts) + "\n", asked_for)


if __name__ == "__main__":
    sys.exit(main())
