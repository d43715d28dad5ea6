"""What a benchmark says: a Markdown table that can be read a year later, and a picture."""

import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import psutil
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.rounds import Rounds

_LABELS = {"direct": "direct", "passthrough": "bare pass-through", "llmops": "llmops, log on"}
_COLOURS = {"direct": "#9aa0a6", "passthrough": "#3b6ea5", "llmops": "#d1603d"}
_PACKAGES = ("uvicorn", "uvloop", "httptools", "pyqwest", "starlette", "orjson", "mlflow")


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    Attributes:
        path: Keys into a summary of the measure.
        added: Whether lines below say by how much it exceeds the systems before.
    """

    title: str
    measure: str
    path: tuple[str, ...]
    unit: str = "ms"
    added: bool = False


ROWS = (
    Row("requests, 32 connections", "closed-32", ("requests_per_s",), "/s"),
    Row("p50, 1 connection", "closed-1", ("latency_ms", "p50"), added=True),
    Row("p99, 1 connection", "closed-1", ("latency_ms", "p99")),
    Row("p50 at 500 requests/s", "open-500", ("latency_ms", "p50"), added=True),
    Row("p99 at 500 requests/s", "open-500", ("latency_ms", "p99"), added=True),
    Row("stream chunks, 32 streams of 200, unpaced", "stream-32", ("events_per_s",), "/s"),
    Row("first byte p50, 20 streams/s, a chunk every 2 ms", "paced-20", ("first_byte_ms", "p50"), added=True),
    Row("first byte p99, 20 streams/s, a chunk every 2 ms", "paced-20", ("first_byte_ms", "p99")),
)


@dataclass(frozen=True, slots=True)
class Goal:
    """A number that was asked for, and the one that was measured.

    Attributes:
        limit: The least that will do, or the most where `at_most` is set.
    """

    title: str
    measured: float
    limit: float
    unit: str = ""
    at_most: bool = False

    @property
    def met(self) -> bool:
        """Whether the measured number will do."""
        return self.measured <= self.limit if self.at_most else self.measured >= self.limit


def goals_table(goals: Sequence[Goal]) -> str:
    """What was asked for beside what was measured."""
    rows = [
        [
            f"{goal.title} ({goal.unit})" if goal.unit else goal.title,
            f"{'at most' if goal.at_most else 'at least'} {_number(goal.limit)}",
            _number(goal.measured),
            "yes" if goal.met else "**no**",
        ]
        for goal in goals
    ]
    return table(["asked for", "goal", "measured", "met"], rows)


def keep(path: Path, text: str, goals: Sequence[Goal]) -> int:
    """Print a report and write it down; returns the exit code: 1 where a goal is missed."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    sys.stdout.write(text)
    return 0 if all(goal.met for goal in goals) else 1


def machine() -> str:
    """This machine, in one line."""
    memory_gb = psutil.virtual_memory().total / 1e9
    return f"{_processor()}, {psutil.cpu_count()} cores, {memory_gb:.0f} GB, {platform.system()} {platform.release()}"


def software(packages: Sequence[str] = _PACKAGES) -> str:
    """Python and the packages that decide, with their versions, in one line."""
    return ", ".join([f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in packages)])


def today() -> str:
    """When, in UTC."""
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first column is text, the others are numbers."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rule, *rows))


def gateway_table(rounds: Rounds) -> str:
    """Every row of ROWS for every system, and the ratio of this server to the pass-through."""
    lines: list[list[str]] = []
    for row in ROWS:
        values = [rounds.median(row.measure, system, *row.path) for system in rounds.systems]
        lines.append([f"{row.title} ({row.unit})", *map(_number, values), _ratio(rounds, row)])
        if row.added:
            lines += _added(row, rounds, values)
    lines.append(["worker's memory (MB)", *(_number(rounds.rss_mb.get(name)) for name in rounds.systems), ""])
    lines.append(["answered, all told", *(str(rounds.total(name, "answered")) for name in rounds.systems), ""])
    lines.append(["failed, all told", *(str(rounds.total(name, "failed")) for name in rounds.systems), ""])
    return table(["", *(_LABELS[name] for name in rounds.systems), "llmops / pass-through"], lines)


def gateway_plot(rounds: Rounds, connections: Sequence[int], path: Path) -> None:
    """Requests per second against connections, and the latency each system adds to the upstream's own."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for system in rounds.systems:
        rates = [rounds.median(f"closed-{count}", system, "requests_per_s") for count in connections]
        known = [(count, rate) for count, rate in zip(connections, rates, strict=True) if rate is not None]
        left.plot(*zip(*known, strict=True), marker="o", color=_COLOURS[system], label=_LABELS[system])
    left.set(xscale="log", ylim=0, xlabel="connections", ylabel="requests/s", title="Throughput on one core")
    left.set_xticks(connections, [str(count) for count in connections])
    left.yaxis.set_major_formatter("{x:,.0f}")
    left.minorticks_off()
    left.grid(alpha=0.3)
    left.legend()
    _plot_added(right, rounds)
    figure.savefig(path, dpi=120)


def _plot_added(axes: Axes, rounds: Rounds) -> None:
    rows = [row for row in ROWS if row.added]
    shown = [name for name in rounds.systems if name != "direct"]
    for place, system in enumerate(shown):
        added = [_difference(rounds, row, system, "direct") or 0.0 for row in rows]
        middles = [n + 0.4 * (place - (len(shown) - 1) / 2) for n in range(len(rows))]
        axes.bar_label(axes.barh(middles, added, 0.38, color=_COLOURS[system]), fmt="%.2f", padding=3)
    axes.set_yticks(range(len(rows)), [row.title.replace("p50, 20", "p50,\n20") for row in rows])
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set(xlabel="milliseconds", title="Added to the upstream's own time")


def _added(row: Row, rounds: Rounds, values: Sequence[float | None]) -> list[list[str]]:
    lines = []
    for base in ("direct", "passthrough"):
        later = rounds.systems[rounds.systems.index(base) + 1 :] if base in rounds.systems else ()
        if later:
            cells = [_number(_difference(rounds, row, name, base)) if name in later else "" for name in rounds.systems]
            lines.append([f"&nbsp;&nbsp;added over {_LABELS[base]}", *cells, ""])
    return lines


def _difference(rounds: Rounds, row: Row, system: str, base: str) -> float | None:
    value, least = (rounds.median(row.measure, name, *row.path) for name in (system, base))
    return None if value is None or least is None else value - least


def _ratio(rounds: Rounds, row: Row) -> str:
    ours, bare = (rounds.median(row.measure, name, *row.path) for name in ("llmops", "passthrough"))
    return f"{ours / bare:.2f}" if ours and bare else ""


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2f}"


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
