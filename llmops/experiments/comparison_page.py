"""A comparison as a page one would rather look at: figures, times before and after, answers side by side.

One file without scripts, links or fonts of others; what callers and models wrote is escaped.
"""

from collections.abc import Iterator, Mapping, Sequence
from html import escape

from llmops.experiments.comparison import Row, Side

#: The page is for eyes; the table has all rows.
_MOST_ROWS = 200
_SIZE, _MARGIN = 360, 40
_STYLE = """
body{font:14px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem;color:#222;background:#fff}
table{border-collapse:collapse;width:100%}td,th{padding:.4rem .6rem;vertical-align:top;text-align:left;
border-bottom:1px solid #ddd}th{font-weight:600}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}
pre{white-space:pre-wrap;overflow-wrap:anywhere;margin:0;font:inherit}.dim{color:#666;font-size:12px}.bad{color:#a40000}
.rows{table-layout:fixed}svg{max-width:100%}
"""
#: Label, metric, decimals.
LINES = (
    ("latency, mean ms", "latency_mean_ms", 1),
    ("latency, p50 ms", "latency_p50_ms", 1),
    ("latency, p95 ms", "latency_p95_ms", 1),
    ("input tokens", "input_tokens", 0),
    ("output tokens", "output_tokens", 0),
    ("cost, USD", "cost_usd", 6),
    ("answers without a price", "unpriced", 0),
)


def page(rows: Sequence[Row], metrics: Mapping[str, float]) -> str:
    """Draw a comparison as HTML."""
    more = len(rows) - _MOST_ROWS
    parts = [
        f"<!doctype html><meta charset=utf-8><title>Replay</title><style>{_STYLE}</style><h1>Replay</h1>",
        f"<p>{escape(summary(metrics))}</p>",
        "<table><tr><th><th class=n>before<th class=n>after<th class=n>difference</tr>",
        *(_line(line) for line in figure_lines(metrics)),
        "</table>",
        _plot(rows),
        "<h2>Answers</h2><table class=rows><tr><th>asked<th>before<th>after</tr>",
        *(_row(row) for row in rows[:_MOST_ROWS]),
        "</table>",
        f"<p class=dim>and {more} more in the table</p>" if more > 0 else "",
    ]
    return "\n".join(parts)


def summary(metrics: Mapping[str, float]) -> str:
    """The counts of a comparison in one line."""
    parts = [
        f"{metrics['questions']:.0f} asked",
        f"{metrics['answered']:.0f} answered",
        f"{metrics['failed']:.0f} failed",
    ]
    if "exact_agreement" in metrics:
        parts.append(f"{metrics['exact_agreement']:.0%} the same")
    if "similarity" in metrics:
        parts.append(f"{metrics['similarity']:.0%} alike")
    return ", ".join(parts)


def figure_lines(metrics: Mapping[str, float]) -> Iterator[tuple[str, str, str, str]]:
    """The figures as label, before, after and difference; empty where one is not known."""
    for label, name, decimals in LINES:
        cells = [metrics.get(f"{side}_{name}") for side in ("before", "after", "difference")]
        if any(cell is not None for cell in cells):
            before, after = ("" if cell is None else f"{cell:.{decimals}f}" for cell in cells[:2])
            # z: no minus before a zero.
            yield label, before, after, "" if cells[2] is None else f"{cells[2]:+z.{decimals}f}"


def _line(cells: Sequence[str]) -> str:
    label, *numbers = map(escape, cells)
    return f"<tr><td>{label}" + "".join(f"<td class=n>{number}" for number in numbers) + "</tr>"


def _row(row: Row) -> str:
    alike = "" if row.similarity is None else f"<div class=dim>{row.similarity:.0%} alike</div>"
    sides = "".join(f"<td>{_side(side)}" for side in (row.before, row.after))
    return f"<tr><td><pre>{escape(row.prompt)}</pre>{alike}{sides}</tr>"


def _side(side: Side) -> str:
    text = f"<pre class=bad>{escape(side.failure or '')}" if side.answer is None else f"<pre>{escape(side.answer)}"
    latency = None if side.latency_ms is None else f"{side.latency_ms:.0f} ms"
    tokens = None if side.output_tokens is None else f"{side.output_tokens} tokens"
    cost = None if side.cost_usd is None else f"{side.cost_usd:.6f} USD"
    facts = [side.endpoint, side.model, latency, tokens, cost, side.trace_id]
    return f"{text}</pre><div class=dim>{escape(' · '.join(fact for fact in facts if fact))}</div>"


def _plot(rows: Sequence[Row]) -> str:
    """Each question as a point, its time before to the right and its time after upwards; below the line is faster."""
    times = [
        (row.before.latency_ms, row.after.latency_ms)
        for row in rows
        if row.answered and row.before.latency_ms is not None and row.after.latency_ms is not None
    ]
    if not times:
        return ""
    most = max(max(pair) for pair in times) or 1.0
    room = _SIZE - 2 * _MARGIN
    far = _SIZE - _MARGIN
    points = "".join(
        f'<circle cx="{_MARGIN + before / most * room:.1f}" cy="{far - after / most * room:.1f}" r="4"/>'
        for before, after in times
    )
    return (
        f'<h2>Times</h2><svg viewBox="0 0 {_SIZE} {_SIZE}" width="{_SIZE}" role="img" '
        f'aria-label="milliseconds before and after, 0 to {most:.0f}">'
        f'<path d="M{_MARGIN} {_MARGIN}V{far}H{far}" fill="none" stroke="#222"/>'
        f'<path d="M{_MARGIN} {far}L{far} {_MARGIN}" stroke="#999" stroke-dasharray="4"/>'
        f'<g fill="#1f6feb" fill-opacity=".5">{points}</g>'
        f'<g font-size="12"><text x="{far}" y="{far + 18}" text-anchor="end">before: 0 to {most:.0f} ms</text>'
        f'<text x="{_MARGIN}" y="{_MARGIN - 10}">after, ms; under the line is faster</text></g></svg>'
    )
