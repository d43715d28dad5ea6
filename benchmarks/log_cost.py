"""What recording costs the request path: `python -m benchmarks.log_cost`.

One server, and two endpoints in front of the same upstream: of one everything is recorded, of the other nothing. The
worker has core 0; the shipper, which drains while the log is on, shares the other one with upstream and load.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from benchmarks import report, systems
from benchmarks.gateway import Measure, load
from benchmarks.rounds import Rounds
from llmops.interactions import spool

RESULTS = Path(__file__).parent / "results"
ROUNDS = 5
SHIPPER = "interactions.shipper"
MEASURES = (
    Measure("closed-32", ("--connections", "32"), 4.0),
    Measure("open-500", ("--connections", "32", "--rate", "500"), 4.0),
)
ROWS = (
    ("requests/s, 32 connections", "closed-32", "requests_per_s"),
    ("p50 (ms), 500 requests/s", "open-500", "latency_ms", "p50"),
    ("p99 (ms), 500 requests/s", "open-500", "latency_ms", "p99"),
)


def measure(work_dir: Path, *, rounds: int) -> tuple[Rounds, int]:
    """Ask both endpoints in turn.

    Returns:
        The numbers, and the fewest records that waited at the end of a round with the log on: the shipper drained
        all through it.
    """
    found, waiting = Rounds(("llmops", "log off")), []
    with systems.upstream() as direct, systems.llmops(direct, work_dir) as logged:
        systems.move(SHIPPER, logged.root, systems.FEED_CORE)
        unlogged = systems.unlogged(logged)
        for system in (logged, unlogged):
            load(system.url, MEASURES[0], 1.0)
        for _ in range(rounds):
            for how in MEASURES:
                found.add(how.name, logged.name, load(logged.url, how, how.seconds))
                waiting.append(spool.depth(systems.data_dir(work_dir) / "spool"))
                # What waits would be drained beside the load that is not recorded.
                with systems.still(SHIPPER, logged.root):
                    found.add(how.name, unlogged.name, load(unlogged.url, how, how.seconds))
    return found, min(waiting)


def goals(found: Rounds) -> list[report.Goal]:
    """What was asked for."""

    def numbers(measure_name: str, *path: str) -> tuple[float, float]:
        on, off = (found.median(measure_name, name, *path) or 0.0 for name in found.systems)
        return on, off

    rates, p99s = numbers("closed-32", "requests_per_s"), numbers("open-500", "latency_ms", "p99")
    return [
        report.Goal("requests/s, log off / log on", rates[1] / rates[0] if rates[0] else 0.0, 1.2, at_most=True),
        report.Goal("p99 at 500 requests/s, log on - log off", p99s[0] - p99s[1], 1.0, "ms", at_most=True),
    ]


def describe(found: Rounds, waiting: int) -> str:
    """The report, as Markdown."""
    rows = []
    for title, measure_name, *path in ROWS:
        on, off = (found.median(measure_name, name, *path) or 0.0 for name in found.systems)
        rows.append([title, f"{on:,.2f}", f"{off:,.2f}", f"{off / on if on else 0:.2f}", f"{on - off:+,.2f}"])
    how = (
        f"median of {ROUNDS} rounds in turn; worker on core 0, shipper, upstream and load on core 1. The shipper "
        f"drains while the log is on ({waiting:,} records waited at least), and stands still while it is off"
    )
    parts = (
        "# What recording costs",
        f"{report.today()} · {report.machine()} · {report.software()}",
        how,
        report.table(["", "log on", "log off", "off / on", "on - off"], rows),
        report.goals_table(goals(found)),
    )
    return "\n\n".join(parts) + "\n"


def main() -> int:
    """Measure, print and keep the report; 1 where a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as work_dir:
        found, waiting = measure(Path(work_dir), rounds=rounds)
    return report.keep(RESULTS / "log_cost.md", describe(found, waiting), goals(found))


if __name__ == "__main__":
    sys.exit(main())
