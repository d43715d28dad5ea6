"""What recording costs the request path: `python -m benchmarks.log_cost`.

One server, and two endpoints in front of the same upstream: of one everything is recorded, of the other nothing. The
shipper drains while the log is on, and stands still while it is off; once more it stands still with the log on, which
shows the request path alone.

At full speed all of the server has core 0, the shipper too, and what feeds it has core 1. At 500 requests a second,
when all of that together keeps a core busy for a fifth of its time, the shipper has core 1 for itself.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from benchmarks import report, systems
from benchmarks.gateway import Measure, load
from benchmarks.rounds import Rounds
from benchmarks.systems import FEED_CORE, SYSTEM_CORE
from llmops.interactions import spool

RESULTS = Path(__file__).parent / "results"
ROUNDS = 7
PATH = "request path"
SYSTEMS = ("llmops", PATH, "log off")
SHIPPER, UPSTREAM = "interactions.shipper", "benchmarks.upstream"
FULL_SPEED = Measure("closed-32", ("--connections", "32"), 3.0)
STEADY = Measure("open-500", ("--connections", "32", "--rate", "500"), 3.0)
P99 = ("latency_ms", "p99")
ROWS = (
    ("requests/s, 32 connections", "closed-32", "requests_per_s"),
    ("p50 (ms), 500 requests/s", "open-500", "latency_ms", "p50"),
    ("p99 (ms), 500 requests/s", "open-500", *P99),
)


def measure(work_dir: Path, *, rounds: int) -> tuple[Rounds, int]:
    """Ask both endpoints in turn.

    Returns:
        The numbers, and the fewest records that waited at the end of a round with the log on: the shipper drained
        all through it.
    """
    found, waiting = Rounds(SYSTEMS), []
    with systems.upstream() as direct, systems.llmops(direct, work_dir) as logged:
        unlogged = systems.unlogged(logged)
        for system in (logged, unlogged):
            load(system.url, FULL_SPEED, 1.0)
        for how, feed, shipper in ((FULL_SPEED, FEED_CORE, SYSTEM_CORE), (STEADY, SYSTEM_CORE, FEED_CORE)):
            systems.move(UPSTREAM, direct.root, feed)
            systems.move(SHIPPER, logged.root, shipper)
            for _ in range(rounds):
                found.add(how.name, logged.name, load(logged.url, how, how.seconds, feed))
                waiting.append(spool.depth(systems.data_dir(work_dir) / "spool"))
                # What waits would be drained beside the load that is not recorded.
                with systems.still(SHIPPER, logged.root):
                    found.add(how.name, PATH, load(logged.url, how, how.seconds, feed))
                    found.add(how.name, unlogged.name, load(unlogged.url, how, how.seconds, feed))
    return found, min(waiting)


def goals(found: Rounds) -> list[report.Goal]:
    """What was asked for."""

    def numbers(measure_name: str, *path: str) -> list[float]:
        return [found.median(measure_name, name, *path) or 0.0 for name in found.systems]

    (_, alone, off), (on_ms, _, off_ms) = numbers("closed-32", "requests_per_s"), numbers("open-500", *P99)
    return [
        report.Goal("requests/s of the request path, log off / log on", off / alone, 1.2, at_most=True),
        report.Goal("p99 at 500 requests/s, log on - log off", on_ms - off_ms, 1.0, "ms", at_most=True),
    ]


def describe(found: Rounds, waiting: int) -> str:
    """The report, as Markdown."""
    rows = []
    for title, measure_name, *path in ROWS:
        numbers = [found.median(measure_name, name, *path) or 0.0 for name in found.systems]
        rows.append([title, *(f"{number:,.2f}" for number in numbers)])
    how = (
        f"median of {found.rounds} rounds in turn. At full speed the server has core 0, its shipper too, upstream and "
        "load have core 1; at 500 requests/s the shipper has core 1 for itself. It drains while the log is on "
        f"({waiting:,} records waited at least), and stands still while it is off"
    )
    parts = (
        "# What recording costs",
        f"{report.today()} · {report.machine()} · {report.software()}",
        how,
        report.table(["", "log on", "log on, shipper still", "log off"], rows),
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
