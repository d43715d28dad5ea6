"""`llmops interactions prune`: delete interactions that are too old."""

import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import orjson
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from llmops.errors import CommandError
from llmops.interactions.deletion import Deletion
from llmops.interactions.erasure import erase_free_space
from llmops.interactions.mlflow_deletion import open_deletion
from llmops.interactions.retention import Progress as Told
from llmops.interactions.retention import Pruned, count
from llmops.interactions.retention import prune as prune_old
from llmops.interactions.retention_limits import Limits, kept
from llmops.interactions.retention_limits import older_than as prune_limits
from llmops.interactions.table_deletion import tables
from llmops.settings import Settings, server_settings

_MS = {"m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
_VACUUM_PATIENCE_S = 20.0


def _age_ms(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """An age, above 0."""
    if value is None:
        return None
    age = re.fullmatch(r"([1-9]\d{0,5})([mhdw])", value)
    if age is None:
        raise click.BadParameter(f"'{value}' is no age: 30d, 12h, 2w")
    return int(age[1]) * _MS[age[2]]


@click.command()
@click.option("--endpoint", help="Only of this endpoint; _rejected for calls that reached none.")
@click.option("--older-than", callback=_age_ms, metavar="AGE", help="Than 30d, 12h: instead of each retention_days.")
@click.option("--dry-run", is_flag=True, help="Count, and delete nothing.")
@click.option("--vacuum", is_flag=True, help="Give freed space back to the disk; MLflow's SQLite is locked meanwhile.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="The server's directory (.llmops).")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def prune(
    endpoint: str | None, older_than: int | None, dry_run: bool, vacuum: bool, data_dir: Path | None, as_json: bool
) -> None:
    """Delete interactions that are older than their endpoint's `llmops: {retention_days: N}`.

    Of an endpoint that is gone, what it said last holds. With --older-than also those of endpoints without it.
    """
    settings = server_settings(data_dir=data_dir)
    limits = Limits() if older_than else kept(settings, endpoint)
    if not older_than and not limits.before_ms:
        _print_nothing(endpoint, as_json)
        return
    deletion = open_deletion(settings)
    if older_than:
        limits = prune_limits(settings, older_than, deletion.experiments(), tables(settings), endpoint)
    old = count(settings, deletion, limits)
    if dry_run:
        _print(old, deletion, settings, as_json, dry_run=True)
        return
    with _shown(sum(one.interactions for one in old.endpoints.values())) as told:
        pruned = prune_old(settings, deletion, limits, progress=told)
    if vacuum:
        _vacuum(settings)
    _print(pruned, deletion, settings, as_json, dry_run=False)


@contextmanager
def _shown(total: int) -> Iterator[Told]:
    """A progress bar on a terminal, nothing elsewhere."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("deleting", total=total)
        yield lambda endpoint, removed: bar.update(task, advance=removed.interactions, description=endpoint)


def _print_nothing(endpoint: str | None, as_json: bool) -> None:
    if as_json:
        _print_json({"deleted": False, "endpoints": {}, "tables": {}, "dead_letters": 0})
        return
    who = f"endpoint '{endpoint}'" if endpoint else "any endpoint"
    click.echo(f"nothing is deleted: retention_days is not set for {who}; --older-than 30d gives an age here")


def _print(pruned: Pruned, deletion: Deletion, settings: Settings, as_json: bool, *, dry_run: bool) -> None:
    endpoints = {name: one for name, one in sorted(pruned.endpoints.items()) if one.interactions or one.sessions}
    rows_of = {name: rows for name, rows in sorted(pruned.rows.items()) if rows}
    if as_json:
        found = {name: {"interactions": one.interactions, "sessions": one.sessions} for name, one in endpoints.items()}
        _print_json({"deleted": not dry_run, "endpoints": found, "tables": rows_of, "dead_letters": pruned.dead})
        return
    done = "would be deleted" if dry_run else "deleted"
    for name, one in endpoints.items():
        sessions = f" and {one.sessions} empty sessions" if one.sessions else ""
        click.echo(f"{name}: {one.interactions} interactions{sessions} {done}")
    for name, rows in rows_of.items():
        click.echo(f"{name}: {rows} table rows {done}")
    if pruned.dead:
        click.echo(f"{pruned.dead} dead letters {done}")
    if not endpoints and not rows_of and not pruned.dead:
        click.echo("nothing is too old")
    if dry_run:
        click.echo("rows of inference tables are not counted", err=True)
    elif deletion.marks_only and endpoints:
        click.echo(collect_garbage(settings), err=True)


def _print_json(document: object) -> None:
    click.echo(orjson.dumps(document, option=orjson.OPT_INDENT_2))


def collect_garbage(settings: Settings) -> str:
    """How the runs that the API only marks as deleted are removed."""
    # A database's URI may hold a password.
    known = (
        shlex.quote(settings.tracking_uri) if settings.tracking_uri.startswith("sqlite:") else '"$MLFLOW_TRACKING_URI"'
    )
    where = "<its database's URI>" if settings.tracking_uri.startswith("http") else known
    command = f"mlflow gc --backend-store-uri {where}"
    return f"MLflow only marked the runs as deleted; to remove them for good, run beside its database: {command}"


def _vacuum(settings: Settings) -> None:
    path = settings.tracking_uri.removeprefix("sqlite:///")
    if path == settings.tracking_uri:
        raise CommandError("--vacuum is for MLflow in SQLite; PostgreSQL does it by itself")
    if why := erase_free_space(Path(path), patience_s=_VACUUM_PATIENCE_S):
        raise CommandError(f"{path} was pruned and has free space, which cannot be given back now: {why}")
