"""How long `llmops --help` takes, against the time Python needs to import click: `python -m benchmarks.startup`."""

import argparse
import subprocess
import sys
from pathlib import Path
from statistics import median
from time import perf_counter

from benchmarks import report

COMMANDS = {
    'python -c "import click"': (sys.executable, "-c", "import click"),
    "llmops --help": (sys.executable, "-c", "from llmops.cli.main import main; main()", "--help"),
}
RESULTS = Path(__file__).parent / "results"


def seconds(command: tuple[str, ...]) -> float:
    """Run a command once; how long it took.

    Raises:
        subprocess.CalledProcessError: It failed, and its time says nothing.
    """
    started = perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return perf_counter() - started


def main() -> None:
    """Time both in turns, print and keep the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    rounds = parser.parse_args().rounds
    for command in COMMANDS.values():  # The first run of each compiles and fills the disk's cache.
        seconds(command)
    times = [[seconds(command) for command in COMMANDS.values()] for _ in range(rounds)]
    medians = [median(column) for column in zip(*times, strict=True)]
    rows = [
        [name, f"{taken * 1000:.0f}", f"{taken / medians[0]:.2f}"]
        for name, taken in zip(COMMANDS, medians, strict=True)
    ]
    parts = (
        "# Startup",
        f"{report.today()} · {report.machine()} · {report.software(('click',))}",
        f"median of {rounds} runs, the commands taking turns",
        report.table(["", "ms", "ratio"], rows),
    )
    text = "\n\n".join(parts) + "\n"
    report.keep(RESULTS / "startup.md", text, ())


if __name__ == "__main__":
    main()
