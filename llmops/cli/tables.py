"""`llmops tables`: the inference tables of a data directory, without a server."""

import importlib
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from pathlib import Path
from typing import Any

import click
import orjson

from llmops.cli import terminal
from llmops.errors import CommandError
from llmops.settings import Settings, server_settings

DATA_DIR = click.option("--data-dir", type=click.Path(path_type=Path), help="Whose tables (.llmops).")
JSON = click.option("--json", "as_json", is_flag=True, help="Write JSON to stdout.")
NAMES = click.argument("names", nargs=-1, metavar="[NAME]...")

_WIDEST = 60


@click.group()
def tables() -> None:
    """See and tidy the inference tables: Delta tables of requests, responses and usage.

    A NAME is catalog.schema.table, as `llmops tables list` shows it. LLMOPS_TABLES_URI says where they are.
    """


@tables.command("list")
@DATA_DIR
@JSON
def list_tables(data_dir: Path | None, as_json: bool) -> None:
    """Show every table with its rows, files, size and path."""
    settings, listing = _opened(data_dir)
    found = [listing.summary(settings, name) for name in listing.tables(settings)]
    if as_json:
        click.echo(orjson.dumps(found))
        return
    if not found:
        click.echo(f"no table in {settings.table_root}; an endpoint's inference_table_config makes one", err=True)
        return
    rows = [
        [one.name, "", "", "", f"{one.uri}  (not one of ours)"]
        if one.problem
        else [one.name, str(one.rows), str(one.files), f"{one.size_bytes / 1e6:.1f}", one.uri]
        for one in found
    ]
    _print(("TABLE", "ROWS", "FILES", "MB", "PATH"), rows)


@tables.command()
@click.argument("name")
@click.option("-n", "--count", type=click.IntRange(1, 10_000), default=20, show_default=True, help="At most so many.")
@DATA_DIR
@JSON
def show(name: str, count: int, data_dir: Path | None, as_json: bool) -> None:
    """Print the newest rows of a table; with --json whole, a line each."""
    settings, listing = _opened(data_dir)
    rows = listing.newest(listing.existing(settings, name), count)
    if as_json:
        for row in rows:
            click.echo(orjson.dumps(_plain(row)))
        return
    if not rows:
        click.echo(f"table '{name}' has no rows", err=True)
        return
    # What says nothing in any of the rows is left out.
    columns = [key for key in rows[0] if any(row[key] not in (None, [], {}) for row in rows)]
    _print([column.upper() for column in columns], [[_cell(row[column]) for column in columns] for row in rows])


@tables.command()
@NAMES
@DATA_DIR
@JSON
def compact(names: tuple[str, ...], data_dir: Path | None, as_json: bool) -> None:
    """Join small files, of all tables or of those named. A server does it by itself."""
    settings, listing = _opened(data_dir)
    upkeep = importlib.import_module("llmops.interactions.table_upkeep")
    joined = {}
    for name in names or _own(settings, listing):
        table = listing.existing(settings, name)
        joined[name] = upkeep.compact(table)
        table.tidy_log()
    _report(joined, "small files joined", as_json)


@tables.command()
@NAMES
@click.option("--hours", type=click.IntRange(0), help="Replaced so long ago (LLMOPS_TABLE_VACUUM_HOURS, 168).")
@DATA_DIR
@JSON
def vacuum(names: tuple[str, ...], hours: int | None, data_dir: Path | None, as_json: bool) -> None:
    """Delete files that were replaced, of all tables or of those named. A server does it by itself.

    With --hours 0 whoever reads an older version at this moment loses it. Files that killed writers left behind are
    deleted too, once they are an hour old.
    """
    settings, listing = _opened(data_dir)
    kept = settings.table_vacuum_hours if hours is None else hours
    deleted = {}
    for name in names or _own(settings, listing):
        table = listing.existing(settings, name)
        deleted[name] = table.vacuum(kept, lost=False) + table.vacuum(kept, lost=True)
    _report(deleted, "files deleted", as_json)


def _opened(data_dir: Path | None) -> tuple[Settings, Any]:
    """The settings, and the module that lists tables: it takes half a second to import."""
    settings = server_settings(data_dir=data_dir)
    try:
        return settings, importlib.import_module("llmops.interactions.table_listing")
    except ImportError as err:
        raise CommandError(f"the package '{err.name}' is missing: pip install deltalake pyarrow") from err


def _own(settings: Settings, listing: Any) -> list[str]:
    found = [listing.summary(settings, name) for name in listing.tables(settings)]
    return [one.name for one in found if not one.problem]


def _report(counts: Mapping[str, int], what: str, as_json: bool) -> None:
    if as_json:
        click.echo(orjson.dumps(counts))
        return
    for name, count in counts.items():
        click.echo(f"{name}: {count} {what}")


def _plain(value: Any) -> Any:
    """A value as JSON has it: a map of Arrow's, a list of pairs, becomes an object."""
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list) and value and all(isinstance(one, tuple) and len(one) == 2 for one in value):
        return dict(value)
    return value


def _cell(value: Any) -> str:
    if isinstance(value, date):
        text = value.isoformat(" ", "seconds") if isinstance(value, datetime) else value.isoformat()
    else:
        text = "" if value is None else value if isinstance(value, str) else orjson.dumps(_plain(value)).decode()
    text = " ".join(text.split())
    return text if len(text) <= _WIDEST else f"{text[: _WIDEST - 1]}…"


def _print(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    # Not click.echo: what a caller or a model wrote must not drive the terminal.
    with terminal.Output() as output:
        for row in (columns, *rows):
            output.write("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() + "\n")
