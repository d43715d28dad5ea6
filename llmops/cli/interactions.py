"""`llmops interactions`: what was asked and answered, read back from MLflow, and the way there."""

import functools
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import fields
from datetime import datetime
from pathlib import Path
from typing import Concatenate, ParamSpec

import click
import orjson
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from llmops.cli import terminal
from llmops.errors import CommandError
from llmops.interactions.logged import EndpointStats, LoggedInteraction, Story, Wanted
from llmops.interactions.mlflow_reader import MlflowReader
from llmops.interactions.shipper import flush as flush_spools
from llmops.settings import server_settings

Rest = ParamSpec("Rest")

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_PROMPT_CHARS = 48

_data_dir = click.option("--data-dir", type=click.Path(path_type=Path), help="The server's directory (.llmops).")
_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def _epoch_ms(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """How long ago or when, as epoch milliseconds."""
    if value is None:
        return None
    age = re.fullmatch(r"(\d+)([smhd])", value)
    if age:
        return time.time_ns() // 1_000_000 - int(age[1]) * _SECONDS[age[2]] * 1000
    try:
        return int(datetime.fromisoformat(value).timestamp() * 1000)
    except ValueError as err:
        raise click.BadParameter(f"'{value}' is neither an age (30s, 15m, 6h, 7d) nor a date (2026-01-31)") from err


def with_wanted(command: Callable[Concatenate[Wanted, Rest], None]) -> Callable[..., None]:
    """Add the options that choose interactions to a command, and call it with the choice."""

    @click.option("--endpoint", help="Of this endpoint; _rejected for calls that reached none.")
    @click.option("--user", help="Of this user.")
    @click.option("--session", help="Of this session.")
    @click.option("--status", type=int, help="With this HTTP status.")
    @click.option("--request-id", "client_request_id", help="With this client_request_id.")
    @click.option("--since", "since_ms", callback=_epoch_ms, help="Received since: 15m, 6h, 7d, 2026-01-31.")
    @functools.wraps(command)
    def chosen(*args: Rest.args, **kwargs: Rest.kwargs) -> None:
        choice = {field.name: kwargs.pop(field.name) for field in fields(Wanted)}
        command(Wanted(**choice), *args, **kwargs)  # type: ignore[arg-type]

    return chosen


@click.group()
def interactions() -> None:
    """See what was asked and answered. Every interaction is a run with a trace in MLflow."""


@interactions.command("list")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, 1000))
@click.option("--page-token", help="What the page before ended with.")
@_data_dir
@_as_json
@with_wanted
def list_(wanted: Wanted, limit: int, page_token: str | None, data_dir: Path | None, as_json: bool) -> None:
    """List interactions, newest first."""
    page = MlflowReader(server_settings(data_dir=data_dir)).page(wanted, limit, page_token)
    if as_json:
        _print_json(page.document())
        return
    columns = ("TIME", "ENDPOINT", "STATUS", "MS", "IN", "OUT", "USD", "INTERACTION", "PROMPT")
    _print_rows(columns, [_row(one) for one in page.interactions])
    if page.token:
        terminal.note(f"more: --page-token {page.token}")


@interactions.command()
@click.argument("name", metavar="ID")
@_data_dir
@_as_json
def show(name: str, data_dir: Path | None, as_json: bool) -> None:
    """Show all of one interaction. ID is its own, its run's, or its trace's."""
    story = MlflowReader(server_settings(data_dir=data_dir)).show(name)
    if as_json:
        _print_json(story.document())
    else:
        _print_story(story)


@interactions.command()
@_data_dir
@_as_json
@with_wanted
def stats(wanted: Wanted, data_dir: Path | None, as_json: bool) -> None:
    """Sum up the newest 10,000 interactions of each endpoint: how many, how fast, how dear."""
    found = MlflowReader(server_settings(data_dir=data_dir)).stats(wanted)
    if as_json:
        _print_json([one.document() for one in found])
        return
    columns = ("ENDPOINT", "REQUESTS", "ERRORS", "P50 MS", "P95 MS", "P99 MS", "FIRST TOKEN MS", "IN", "OUT", "USD")
    _print_rows(columns, [_stats_row(one) for one in found])


@interactions.command()
@click.option("--timeout", default=60.0, show_default=True, type=click.FloatRange(0), help="Seconds.")
@_data_dir
@_as_json
def flush(timeout: float, data_dir: Path | None, as_json: bool) -> None:
    """Wait until everything that was answered is in MLflow; without a server, bring it there."""
    left = flush_spools(server_settings(data_dir=data_dir), timeout)
    if as_json:
        _print_json({"left": left})
    if left:
        raise CommandError(f"{left} interactions are not in MLflow after {timeout:g} seconds; is MLflow reachable?")
    if not as_json:
        click.echo("everything is in MLflow")


def _row(one: LoggedInteraction) -> tuple[str, ...]:
    prompt = " ".join(one.prompt.split())
    return (
        _time(one.received_ms),
        one.endpoint,
        str(one.status),
        _number(one.latency_ms),
        _number(one.input_tokens),
        _number(one.output_tokens),
        _usd(one.cost_usd),
        one.interaction_id,
        prompt if len(prompt) <= _PROMPT_CHARS else prompt[: _PROMPT_CHARS - 1] + "…",
    )


def _stats_row(one: EndpointStats) -> tuple[str, ...]:
    return (
        one.endpoint,
        str(one.requests),
        str(one.errors),
        *map(_number, one.latency_ms),
        _number(one.first_token_ms),
        str(one.input_tokens),
        str(one.output_tokens),
        # A plus says that the sum is too low: some prices are not known.
        _usd(one.cost_usd) + ("+" if one.unpriced else ""),
    )


def _print_story(story: Story) -> None:
    one = story.interaction
    facts = {
        "interaction": one.interaction_id,
        "run": one.run_id,
        "trace": one.trace_id,
        "request id": one.client_request_id,
        "received": _time(one.received_ms),
        "outcome": " ".join(part for part in (one.outcome, str(one.status), one.error_code) if part),
        "user": one.user,
        "session": one.session,
        "time": f"{_number(one.latency_ms)} ms",
        "first token": one.first_token_ms is not None and f"{_number(one.first_token_ms)} ms",
        "tokens": one.input_tokens is not None and f"{one.input_tokens} in, {one.output_tokens} out",
        "cost": one.cost_usd is not None and f"{_usd(one.cost_usd)} USD",
        **story.params,
    }
    lines = [f"{name + ':':<16}{value}" for name, value in facts.items() if value]
    for number, attempt in enumerate(story.attempts, start=1):
        end = f"{attempt.error}: {attempt.message}" if attempt.error else f"answered {attempt.status}"
        lines.append(f"{f'attempt {number}:':<16}{attempt.served_entity}, {_number(attempt.duration_ms)} ms, {end}")
    bodies = (("request", story.request), ("response", story.response))
    lines += [f"\n{title}:\n{_pretty(body)}" for title, body in bodies if body is not None]
    # Not click.echo: what a model or a caller wrote must not drive the terminal.
    with terminal.Output() as output:
        output.write("\n".join(lines))


def _print_rows(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on a terminal, aligned columns in a pipe."""
    if not sys.stdout.isatty():
        widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
        for row in (columns, *rows):
            click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        return
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column.capitalize(), overflow="fold")
    for row in rows:
        table.add_row(*("".join(char if char.isprintable() else "\ufffd" for char in cell) for cell in row))
    context = click.get_current_context()
    Console(no_color=context.color is False or None, markup=False).print(table)


def _pretty(body: object) -> str:
    return body if isinstance(body, str) else orjson.dumps(body, option=orjson.OPT_INDENT_2).decode()


def _time(epoch_ms: int) -> str:
    return datetime.fromtimestamp(epoch_ms / 1000).astimezone().isoformat(" ", "seconds")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}"


def _usd(value: float | None) -> str:
    return "" if value is None else f"{value:.6f}".rstrip("0").rstrip(".")


def _print_json(value: object) -> None:
    click.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2))
