"""`llmops interactions stats`: how many interactions there were, how fast, and how dear."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Console
from rich.text import Text

from llmops.cli import terminal
from llmops.cli.interactions_rows import Cell, number, print_json, print_rows, usd
from llmops.cli.interactions_wanted import with_data_dir, with_wanted
from llmops.interactions.logged import Wanted
from llmops.interactions.logged_stats import EndpointStats, Period
from llmops.interactions.mlflow_reader import MlflowReader
from llmops.settings import server_settings

_NUMBERS = ("REQUESTS", "ERRORS", "P50 MS", "P95 MS", "P99 MS", "FIRST TOKEN MS", "IN", "OUT", "USD")
_BAR_CHARS = 16


@click.command()
@click.option("--by", "period", type=click.Choice(["hour", "day"]), help="A row for each hour or day.")
@with_data_dir
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array.")
@with_wanted
def stats(wanted: Wanted, period: str | None, data_dir: Path | None, as_json: bool) -> None:
    """Sum up each endpoint: how many, how fast, how dear.

    Errors are all that did not end with a whole answer. A + after USD: of some tokens the price is not known. Where
    MLflow is no SQLite or PostgreSQL database of a revision we know, only the newest 10,000 of an endpoint are read.
    """
    with _progress() as told:
        reader = MlflowReader(server_settings(data_dir=data_dir), told)
        found = reader.stats(wanted, Period.of(period) if period else None)
    if as_json:
        print_json([one.document() for one in found])
    elif found:
        _print(found, by=period)
    else:
        terminal.note("no interaction fits")
    if not all(one.whole for one in found):
        terminal.note("only the newest 10,000 interactions of an endpoint were read, one by one, through MLflow's API")


def _print(found: tuple[EndpointStats, ...], by: str | None) -> None:
    # A plot is for eyes: the length of a bar says how many requests, its red part how many errors.
    plotted = sys.stdout.isatty()
    columns = ("ENDPOINT", *([by.upper()] if by else []), *_NUMBERS, *([""] if plotted else []))
    most = max(one.requests for one in found)
    rows = [(*_row(one), *([_bar(one, most)] if plotted else [])) for one in found]
    print_rows(columns, rows, right=_NUMBERS)


def _row(one: EndpointStats) -> tuple[Cell, ...]:
    return (
        one.endpoint,
        *([one.period.replace("T", " ")] if one.period else []),
        str(one.requests),
        str(one.errors),
        *map(number, one.latency_ms),
        number(one.first_token_ms),
        str(one.input_tokens),
        str(one.output_tokens),
        # A plus says that the sum is too low: some prices are not known.
        usd(one.cost_usd) + ("+" if one.unpriced else ""),
    )


def _bar(one: EndpointStats, most: int) -> Text:
    length = max(1, round(_BAR_CHARS * one.requests / most))
    red = -(-length * one.errors // one.requests)
    return Text.assemble(("█" * (length - red), "green"), ("█" * red, "red"))


@contextmanager
def _progress() -> Iterator[Callable[[int], None]]:
    """Count on a terminal how many interactions were read, where they are read one by one."""
    if not sys.stderr.isatty() or click.get_current_context().color is False:
        yield lambda count: None
        return
    status = Console(stderr=True).status("")

    def told(count: int) -> None:
        status.update(f"reading: {count} interactions ...")
        status.start()

    try:
        yield told
    finally:
        status.stop()
