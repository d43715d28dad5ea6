"""How the log is shown: rows of figures on a terminal of any width and in a pipe, times, money, JSON.

What stands in a row was written by callers and models: whatever could drive a terminal is replaced, in a pipe too.
"""

import sys
from collections.abc import Sequence
from datetime import datetime

import click
import orjson
from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

#: Between two columns of a table on a terminal.
_GAP = 2
Cell = str | Text


def print_rows(columns: Sequence[str], rows: Sequence[Sequence[Cell]], *, right: Sequence[str] = ()) -> None:
    """Print rows: a table on a terminal, a paragraph each where the terminal is too narrow, aligned columns in a pipe.

    Args:
        rows: Length >= 1. A `Text` is ours and keeps its colours; a string is made harmless.
        right: Columns of numbers.
    """
    harmless = [[cell if isinstance(cell, Text) else Text(one_line(cell)) for cell in row] for row in rows]
    widths = [max(map(cell_len, map(str, column))) for column in zip(columns, *harmless, strict=True)]
    if not sys.stdout.isatty():
        _print_columns(columns, harmless, widths, right)
        return
    console = a_console()
    if console.width < sum(widths) + _GAP * len(widths):
        _print_paragraphs(console, columns, harmless)
        return
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, no_wrap=True, justify="right" if column in right else "left")
    for row in harmless:
        table.add_row(*row)
    console.print(table)


def a_console() -> Console:
    """The terminal, without colours where none are wanted."""
    plain = click.get_current_context().color is False
    return Console(color_system=None if plain else "auto", markup=False, highlight=False)


def one_line(text: str, most_chars: int | None = None) -> str:
    """A text as one line of printable characters, its end cut off where it is longer."""
    line = " ".join(text.split())
    if most_chars is not None and len(line) > most_chars:
        line = line[: most_chars - 1] + "…"
    return "".join(char if char.isprintable() else "\ufffd" for char in line)


def clock(epoch_ms: int) -> str:
    """A time on this machine's clock, with its offset."""
    return datetime.fromtimestamp(epoch_ms / 1000).astimezone().isoformat(" ", "seconds")


def number(value: float | None) -> str:
    """A number without its fraction; empty where there is none."""
    return "" if value is None else f"{value:.0f}"


def usd(value: float | None) -> str:
    """Money to a millionth; empty where none is known."""
    return "" if value is None else f"{value:.6f}".rstrip("0").rstrip(".")


def print_json(value: object) -> None:
    """Print a value as indented JSON."""
    click.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2))


def _print_columns(
    columns: Sequence[str], rows: Sequence[Sequence[Text]], widths: Sequence[int], right: Sequence[str]
) -> None:
    for row in (columns, *rows):
        cells = []
        for column, cell, width in zip(columns, map(str, row), widths, strict=True):
            room = " " * (width - cell_len(cell))
            cells.append(room + cell if column in right else cell + room)
        click.echo("  ".join(cells).rstrip())


def _print_paragraphs(console: Console, columns: Sequence[str], rows: Sequence[Sequence[Text]]) -> None:
    for row in rows:
        console.print(Text("  ").join(row[:2]))
        named = [
            Text.assemble(f"{name.lower()} ", cell) for name, cell in zip(columns[2:], row[2:], strict=True) if cell
        ]
        console.print(Padding(Text(" · ").join(named), (0, 0, 0, 2)), overflow="fold")
