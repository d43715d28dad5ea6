"""`llmops interactions dead`: the records that a sink did not take, and another chance for them."""

import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import click
import orjson

from llmops.cli import terminal
from llmops.errors import CommandError, NotFound
from llmops.interactions.dead_letters import DeadLetter, DeadLetters
from llmops.settings import server_settings

_USAGE = 64

_data_dir = click.option("--data-dir", type=click.Path(path_type=Path), help="The server's directory (.llmops).")
_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
def dead() -> None:
    """See and retry what MLflow or a table did not take. Works with and without a running server."""


@dead.command("list")
@_data_dir
@_as_json
def list_(data_dir: Path | None, as_json: bool) -> None:
    """List dead letters, newest first, with the reason of each."""
    letters = _letters(data_dir).all()
    if as_json:
        click.echo(orjson.dumps([letter.document() for letter in letters], option=orjson.OPT_INDENT_2))
        return
    if not letters:
        terminal.note("no dead letters")
        return
    rows = [("ID", "SINK", "BURIED", "INTERACTION", "REASON")]
    rows += [
        (letter.dead_id, letter.sink, _time(letter.buried_ms), letter.interaction_id or "", letter.reason)
        for letter in letters
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    with terminal.Output() as output:
        for row in rows:
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            output.write("  ".join(cells).rstrip() + "\n")


@dead.command()
@click.argument("name", metavar="ID")
@_data_dir
@_as_json
def show(name: str, data_dir: Path | None, as_json: bool) -> None:
    """Show a dead letter with its record. ID is its own or its interaction's."""
    documents = [{**letter.document(), "record": letter.record} for letter in _find(_letters(data_dir), [name])]
    if as_json:
        click.echo(orjson.dumps(documents, option=orjson.OPT_INDENT_2))
        return
    # Not click.echo: what a model or a caller wrote must not drive the terminal.
    with terminal.Output() as output:
        for document in documents:
            output.write(orjson.dumps(document, option=orjson.OPT_INDENT_2).decode() + "\n")


@dead.command()
@click.argument("names", metavar="[ID]...", nargs=-1)
@click.option("--all", "every", is_flag=True, help="Retry all of them.")
@_data_dir
@_as_json
def retry(names: tuple[str, ...], every: bool, data_dir: Path | None, as_json: bool) -> None:
    """Deliver dead letters again, each to the one sink that did not take it."""
    letters = _letters(data_dir)
    chosen = _chosen(letters, names, every)
    try:
        count = letters.retry(chosen)
    except NotFound as err:
        raise CommandError(err.message) from err
    _tell("retried", count, as_json, "on their way again")


@dead.command()
@click.argument("names", metavar="[ID]...", nargs=-1)
@click.option("--all", "every", is_flag=True, help="Drop all of them.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@_data_dir
@_as_json
def drop(names: tuple[str, ...], every: bool, yes: bool, data_dir: Path | None, as_json: bool) -> None:
    """Delete dead letters for ever."""
    letters = _letters(data_dir)
    chosen = _chosen(letters, names, every)
    if not yes:
        if not sys.stdin.isatty():
            raise CommandError("this deletes records for ever: repeat it with --yes", exit_code=_USAGE)
        click.confirm(f"Delete {len(chosen)} dead letters for ever?", abort=True, err=True)
    _tell("dropped", letters.drop(chosen), as_json, "deleted")


def _letters(data_dir: Path | None) -> DeadLetters:
    settings = server_settings(data_dir=data_dir)
    if not settings.data_dir.is_dir():
        raise CommandError(f"there is no directory '{settings.data_dir}'; --data-dir names the server's")
    return DeadLetters(settings)


def _chosen(letters: DeadLetters, names: Sequence[str], every: bool) -> list[DeadLetter]:
    if every == bool(names):
        raise CommandError("name dead letters by their ids, or say --all", exit_code=_USAGE)
    return letters.all() if every else _find(letters, names)


def _find(letters: DeadLetters, names: Sequence[str]) -> list[DeadLetter]:
    try:
        return letters.find(names)
    except NotFound as err:
        raise CommandError(err.message) from err


def _tell(what: str, count: int, as_json: bool, end: str) -> None:
    if as_json:
        click.echo(orjson.dumps({what: count}))
    else:
        click.echo(f"{count} dead {'letter' if count == 1 else 'letters'} {end}")


def _time(epoch_ms: int) -> str:
    return datetime.fromtimestamp(epoch_ms / 1000).astimezone().isoformat(" ", "seconds")
