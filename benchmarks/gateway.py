"""`make bench`: this server against a bare pass-through and the upstream itself, in one run on one core.

The system under test has core 0, its shipper included; the upstream and the load generator share core 1. The systems
take turns at every measurement, so that a noisy machine is noisy for all of them, and a number is the median of the
rounds. While one is measured the others are frozen.
"""

import argparse
import os
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from benchmarks import report, systems
from benchmarks.rounds import Rounds
from benchmarks.systems import System
from llmops.interactions import spool

SYSTEMS = ("direct", "passthrough", "llmops")
RESULTS = Path(__file__).parent / "results"
ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Measure:
    """One way to load a system: arguments of `benchmarks.load`, and for how long."""

    name: str
    arguments: tuple[str, ...]
    seconds: float


def _closed(connections: int, seconds: float) -> Measure:
    return Measure(f"closed-{connections}", ("--connections", str(connections)), seconds)


WARM_UP = (
    Measure("warm-up", ("--connections", "32"), 1.0),
    Measure("warm-up", ("--connections", "8", "--stream"), 0.5),
)
MEASURES = (
    _closed(1, 2.5),
    _closed(32, 4.0),
    Measure("open-500", ("--connections", "32", "--rate", "500"), 3.0),
    Measure("stream-32", ("--connections", "32", "--stream"), 3.0),
    # About 8 streams at a time, begun one by one: the first byte's time is its own, not that of a queue.
    Measure("paced-20", ("--connections", "32", "--stream", "--gap-ms", "2", "--rate", "20"), 3.0),
)
CONNECTIONS = (1, 4, 16, 32, 64)
CURVE = tuple(_closed(count, 2.0) for count in CONNECTIONS if count not in (1, 32))


@dataclass(frozen=True, slots=True)
class Recorded:
    """Where the interactions of a run are when the server has ended.

    Attributes:
        shipped: Runs in MLflow.
        spooled: Records still to be delivered.
    """

    shipped: int
    spooled: int

    @property
    def total(self) -> int:
        """Both together; equal to the answered requests, or something is lost or double."""
        return self.shipped + self.spooled


def recorded(data_dir: Path) -> Recorded:
    """Count every interaction of a server that has ended; the only place that knows where they are."""
    with closing(sqlite3.connect(data_dir / "mlflow.db")) as database:
        (made,) = database.execute("SELECT count(*) FROM sqlite_master WHERE name = 'runs'").fetchone()
        (shipped,) = database.execute("SELECT count(*) FROM runs").fetchone() if made else (0,)
    return Recorded(int(shipped), spool.depth(data_dir / "spool"))


def load(url: str, measure: Measure, seconds: float, core: int = systems.FEED_CORE) -> dict[str, Any]:
    """Run the load generator on a core; returns its summary."""
    command = [sys.executable, "-m", "benchmarks.load", "--json", "--url", url, "--seconds", str(seconds)]
    with systems.command_on(core, [*command, *measure.arguments], stdout=subprocess.PIPE) as process:
        written, _ = process.communicate()
    summary: dict[str, Any] = orjson.loads(written)
    return summary


def play(running: Sequence[System], rounds: Rounds, measures: Sequence[Measure], pace: float) -> None:
    """Measure every system with every measure once, one awake at a time.

    Args:
        pace: What seconds are multiplied with.
    """
    for measure in measures:
        for system in running:
            system.thaw()
            rounds.add(measure.name, system.name, load(system.url, measure, measure.seconds * pace))
            if system.name != "direct":  # The upstream answers the others, too.
                rounds.rss_mb[system.name] = system.worker_rss_mb()
                system.freeze()


def measure_all(only: Sequence[str], work_dir: Path, *, quick: bool) -> Rounds:
    """Start the systems, play every round, end them."""
    rounds = Rounds(tuple(name for name in SYSTEMS if name in only))
    with ExitStack() as stack:
        direct = stack.enter_context(systems.upstream())
        running = [direct] if "direct" in only else []
        if "passthrough" in only:
            running.append(stack.enter_context(systems.passthrough(direct)))
        if "llmops" in only:
            running.append(stack.enter_context(systems.llmops(direct, work_dir)))
        play(running, rounds, WARM_UP, 1.0)
        rounds.busy.append(systems.busy_cores())
        for number in range(1 if quick else ROUNDS):
            play(running, rounds, MEASURES, 0.4 if quick else 1.0)
            if number < ROUNDS - 1 and not quick:
                play(running, rounds, CURVE, 1.0)
            rounds.busy.append(systems.busy_cores())
    return rounds


def describe(rounds: Rounds, found: Recorded | None, *, quick: bool) -> str:
    """The report, as Markdown."""
    pinned = "system under test on core 0 (our shipper, at nice 19, with it), upstream and load on core 1"
    played = "one short round (--quick)" if quick else f"median of {ROUNDS} rounds, the systems taking turns"
    parts = [
        "# Gateway",
        f"{report.today()} · {report.machine()} · {report.software()}",
        f"{pinned if systems.pinned() else 'not pinned to cores: compare with care'}; {played}; "
        "the upstream answers 384 bytes at once. "
        f"Between the rounds other programs kept {max(rounds.busy):.2f} of the {os.cpu_count()} cores busy.",
        report.gateway_table(rounds),
    ]
    if found is not None:
        answered = rounds.total("llmops", "answered")
        verdict = "none lost, none double" if found.total == answered else f"OFF BY {found.total - answered}"
        parts.append(
            f"llmops answered {answered} requests and recorded {found.total} interactions ({found.shipped} in MLflow, "
            f"{found.spooled} in the spool): {verdict}."
        )
    return "\n\n".join(parts) + "\n"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one short round, about 30 seconds")
    parser.add_argument("--only", default=",".join(SYSTEMS), help="of direct,passthrough,llmops")
    parser.add_argument("--out", type=Path, help="where gateway.md and .png go; default: results, if all is measured")
    given = parser.parse_args()
    given.only = given.only.split(",")
    if unknown := set(given.only) - set(SYSTEMS):
        parser.error(f"--only knows {', '.join(SYSTEMS)}, not {', '.join(sorted(unknown))}")
    if given.out is None and not given.quick and set(given.only) == set(SYSTEMS):
        given.out = RESULTS
    return given


def main() -> int:
    """Measure, print, keep; 1 where a request failed, or an interaction is missing or double."""
    given = _options()
    with tempfile.TemporaryDirectory(prefix="llmops-bench-") as work_dir:
        rounds = measure_all(given.only, Path(work_dir), quick=given.quick)
        found = recorded(systems.data_dir(Path(work_dir))) if "llmops" in given.only else None
    text = describe(rounds, found, quick=given.quick)
    sys.stdout.write(text)
    if given.out:
        given.out.mkdir(parents=True, exist_ok=True)
        (given.out / "gateway.md").write_text(text)
        report.gateway_plot(rounds, CONNECTIONS, given.out / "gateway.png")
    exact = found is None or found.total == rounds.total("llmops", "answered")
    return 0 if exact and not any(rounds.total(name, "failed") for name in rounds.systems) else 1


if __name__ == "__main__":
    sys.exit(main())
