"""What recording costs the request path: `python -m benchmarks.log_cost`.

One server, and two endpoints in front of the same upstream: of one everything is recorded, of the other nothing. The
worker has core 0; the shipper, which drains all the while, shares the other one with upstream and load.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from benchmarks import report, systems
from benchmarks.gateway import Measure, load
from benchmarks.rounds import Rounds

RESULTS = Path(__file__).parent / "results"
ROUNDS = 5
MEASURES = (
    Measure("closed-32", ("--connections", "32"), 4.0),
    Measure("open-500", ("--connections", "32", "--rate", "500"), 4.0),
)


def measure(work_dir: Path, *, rounds: int) -> Rounds:
    """Ask both endpoints in turn."""
    found = Rounds(("llmops", "log off"))
    with systems.upstream() as direct, systems.llmops(direct, work_dir) as logged:
        systems.move("interactions.shipper", logged.root, systems.FEED_CORE)
        both = (logged, systems.unlogged(logged))
        for system in both:
            load(system.url, MEASURES[0], 1.0)
        for _ in range(rounds):
            for how in MEASURES:
                for system in both:
                    found.add(how.name, system.name, load(system.url, how, how.seconds))
    return found


def describe(found: Rounds) -> str:
    """The report, as Markdown."""
    rows = [
        ("requests/s, 32 connections", "closed-32", ("requests_per_s",)),
        ("p50 (ms), 500 requests/s", "open-500", ("latency_ms", "p50")),
        ("p99 (ms), 500 requests/s", "open-500", ("latency_ms", "p99")),
    ]
    lines = ["|  | log on | log off | off / on | off - on |", "| --- | ---: | ---: | ---: | ---: |"]
    for title, measure_name, path in rows:
        on, off = (found.median(measure_name, name, *path) or 0.0 for name in ("llmops", "log off"))
        lines.append(f"| {title} | {on:,.2f} | {off:,.2f} | {off / on if on else 0:.2f} | {off - on:+,.2f} |")
    facts = f"{report.today()} · {report.machine()} · {report.software()}"
    how = f"median of {ROUNDS} rounds in turn; worker on core 0, shipper, upstream and load on core 1"
    return "\n\n".join(("# What recording costs", facts, how, "\n".join(lines))) + "\n"


def main() -> int:
    """Measure, print and keep the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as work_dir:
        text = describe(measure(Path(work_dir), rounds=rounds))
    print(text)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "log_cost.md").write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
