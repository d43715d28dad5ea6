"""`llmops endpoints`: what the server serves, shown and changed through its own API."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

import click
import orjson
import yaml
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.padding import Padding
from rich.table import Table

from llmops.cli.connection import complete_endpoint, with_client
from llmops.cli.endpoints_history import print_history
from llmops.client import Client, Document, Endpoint
from llmops.errors import CommandError

_COLUMNS = ("NAME", "STATE", "TASK", "SERVED ENTITIES", "REASON")
#: On a narrower terminal the columns would be too thin to read.
_TABLE_WIDTH = 80

_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_file = click.option(
    "-f", "--file", required=True, type=click.File(encoding="utf-8"), help="YAML or JSON; '-' reads a pipe."
)


@click.group()
def endpoints() -> None:
    """List, show, create, update and delete endpoints."""


@endpoints.command("list")
@_as_json
@with_client
def list_(client: Client, as_json: bool) -> None:
    """List all endpoints, and why one of them is not ready."""
    found = client.list_endpoints()
    if as_json:
        _print_json([endpoint.document for endpoint in found])
        return
    rows = [_row(client, endpoint) for endpoint in found]
    if sys.stdout.isatty():
        _print_table(rows)
    else:
        _print_columns([_COLUMNS, *rows])


@endpoints.command()
@click.argument("name", shell_complete=complete_endpoint)
@_as_json
@with_client
def get(client: Client, name: str, as_json: bool) -> None:
    """Show all that the server tells of an endpoint."""
    endpoint = client.get_endpoint(name)
    if as_json:
        _print_json(endpoint.document)
    else:
        click.echo(yaml.safe_dump(endpoint.document, sort_keys=False, allow_unicode=True), nl=False)


@endpoints.command()
@_file
@_as_json
@with_client
def create(client: Client, file: TextIO, as_json: bool) -> None:
    """Create an endpoint from its document."""
    _report(client.create_endpoint(_document(file)), "created", as_json=as_json)


@endpoints.command()
@_file
@_as_json
@with_client
def update(client: Client, file: TextIO, as_json: bool) -> None:
    """Change the config of an endpoint to that of its document; parts it leaves out stay, the rest is not read."""
    document = _document(file)
    name, config = document.get("name"), document.get("config")
    if not isinstance(name, str) or not isinstance(config, dict):
        raise CommandError(f"{file.name}: an update needs the keys 'name' and 'config'")
    _report(client.update_config(name, config), "updated", as_json=as_json)


@endpoints.command()
@click.argument("name", shell_complete=complete_endpoint)
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@_as_json
@with_client
def delete(client: Client, name: str, yes: bool, as_json: bool) -> None:
    """Delete an endpoint; what it logged stays."""
    if not yes and not sys.stdin.isatty():
        raise click.UsageError("there is no terminal to ask on: say --yes")
    if not yes:
        click.confirm(f"Delete endpoint '{name}'?", abort=True)
    client.delete_endpoint(name)
    if as_json:
        _print_json({"name": name, "deleted": True})
    else:
        click.echo(f"endpoint '{name}' deleted")


@endpoints.command()
@click.argument("name", shell_complete=complete_endpoint)
@_as_json
@with_client
def history(client: Client, name: str, as_json: bool) -> None:
    """List every config an endpoint has had, the newest first, and what each changed."""
    versions = client.list_versions(name)
    if as_json:
        _print_json(versions)
    else:
        print_history(name, versions)


@endpoints.command()
@click.argument("name", shell_complete=complete_endpoint)
@click.argument("version", type=click.IntRange(min=1))
@_as_json
@with_client
def rollback(client: Client, name: str, version: int, as_json: bool) -> None:
    """Make the config of a former VERSION the newest one; nothing of the history is lost."""
    _report(client.rollback(name, version), f"has the config of version {version} again", as_json=as_json)


def _document(file: TextIO) -> Document:
    try:
        document = yaml.safe_load(file)
    except yaml.MarkedYAMLError as err:
        line = f":{err.problem_mark.line + 1}" if err.problem_mark else ""
        raise CommandError(f"{file.name}{line}: {err.problem}") from err
    except (yaml.YAMLError, UnicodeDecodeError) as err:
        raise CommandError(f"{file.name}: not readable as YAML: {' '.join(str(err).split())}") from err
    if not isinstance(document, dict):
        raise CommandError(f"{file.name}: an endpoint document is a mapping, as `llmops endpoints get` shows one")
    return document


def _report(endpoint: Endpoint, done: str, *, as_json: bool) -> None:
    if as_json:
        _print_json(endpoint.document)
        return
    reason = f": {endpoint.reason}" if endpoint.reason else ""
    click.echo(f"endpoint '{endpoint.name}' {done}, {endpoint.state}{reason}")


def _row(client: Client, endpoint: Endpoint) -> tuple[str, ...]:
    # The Databricks list carries no states of served entities: ask for the ones in trouble.
    known = endpoint if endpoint.ready or endpoint.reason else client.get_endpoint(endpoint.name)
    return (known.name, known.state, known.task, ", ".join(endpoint.served_entities), " ".join(known.reason.split()))


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    plain = click.get_current_context().color is False
    console = Console(color_system=None if plain else "auto", markup=False, highlight=False)
    if console.width < _TABLE_WIDTH:
        for name, state, *more in rows:
            console.print(f"{name}  {state}")
            console.print(Padding(" · ".join(filter(None, more)), (0, 0, 0, 2)))
        return
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in _COLUMNS:
        table.add_column(column, overflow="fold", no_wrap=column in _COLUMNS[:3])
    for row in rows:
        table.add_row(*row, style=None if row[1] == "READY" else "yellow")
    console.print(table)


def _print_columns(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo("  ".join(cells).rstrip())


def _print_json(value: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> None:
    click.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2))
