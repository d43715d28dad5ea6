"""`llmops interactions tail`: the newest interactions, and those that arrive."""

import sys
import time
from collections.abc import Iterable
from pathlib import Path

import click
import orjson
from rich.console import Console
from rich.text import Text

from llmops.cli import terminal
from llmops.cli.interactions_rows import a_console, clock, number, one_line
from llmops.cli.interactions_wanted import with_data_dir, with_wanted
from llmops.errors import NotFound, Unavailable
from llmops.interactions.follower import Follower
from llmops.interactions.logged import LoggedInteraction, Wanted
from llmops.interactions.mlflow_reader import MlflowReader
from llmops.settings import Settings, server_settings

_WAIT_S = 1.0
_PROMPT_CHARS = 100
#: On a narrower terminal an interaction takes three lines.
_ONE_LINE = 100


@click.command()
@click.option("-n", "--lines", "count", default=10, show_default=True, type=click.IntRange(0, 1000))
@click.option("-f", "--follow", is_flag=True, help="Go on until Ctrl-C.")
@with_data_dir
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@with_wanted
def tail(wanted: Wanted, count: int, follow: bool, data_dir: Path | None, as_json: bool) -> None:
    """Show the newest interactions, the newest last.

    With -f also those that arrive in MLflow, each once, up to an hour after they were received.
    """
    settings = server_settings(data_dir=data_dir)
    reader = _opened(settings) if follow else MlflowReader(settings)
    follower = Follower(reader, wanted) if follow else None
    newest = reader.page(wanted, count).interactions if count else ()
    _print(reversed(newest), as_json=as_json)
    if follower is None:
        if not newest and not as_json:
            terminal.note("no interaction fits")
        return
    follower.skip(newest)
    _follow(follower, as_json=as_json)


def _opened(settings: Settings) -> MlflowReader:
    """The reader, as soon as anything is logged."""
    told = False
    while True:
        try:
            return MlflowReader(settings)
        except NotFound as err:
            if not told:
                terminal.note(f"{err.message}; waiting")
            told = True
            time.sleep(_WAIT_S)


def _follow(follower: Follower, *, as_json: bool) -> None:
    away = False
    while True:
        time.sleep(follower.pause_s)
        try:
            _print(follower.news(), as_json=as_json)
        except Unavailable as err:
            if not away:
                terminal.note(f"{err.message}; waiting")
            away = True
        else:
            away = False


def _print(interactions: Iterable[LoggedInteraction], *, as_json: bool) -> None:
    console = a_console()
    for one in interactions:
        if as_json:
            click.echo(orjson.dumps(one.document()))
        elif not sys.stdout.isatty():
            click.echo(" ".join(_parts(one)))
        else:
            _show(console, one)
    sys.stdout.flush()


def _show(console: Console, one: LoggedInteraction) -> None:
    head, interaction_id, prompt = _parts(one)
    styled = Text(head, style="" if one.outcome == "answered" else "yellow")
    if console.width >= _ONE_LINE:
        line = Text("  ").join([styled, Text(interaction_id, style="dim"), Text(prompt)])
        console.print(line, no_wrap=True, overflow="ellipsis")
        return
    console.print(styled)
    for part in (interaction_id, prompt):
        console.print(Text(f"  {part}"), no_wrap=True, overflow="ellipsis")


def _parts(one: LoggedInteraction) -> tuple[str, str, str]:
    facts = (clock(one.received_ms), one_line(one.endpoint), str(one.status), f"{number(one.latency_ms)} ms")
    return " ".join(facts), one.interaction_id, one_line(one.prompt, _PROMPT_CHARS)
