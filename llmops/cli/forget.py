"""`llmops interactions forget`: remove everything that was logged of one person."""

import sys
from pathlib import Path

import click
import orjson
from rich.console import Console

from llmops.cli.prune import collect_garbage
from llmops.errors import CommandError
from llmops.interactions.forgetting import Forgotten, count
from llmops.interactions.forgetting import forget as forget_user
from llmops.settings import Settings, server_settings

_USAGE = 64
_NOT_OURS = "not looked at: backups, exports, files of other programs, and what vendors keep"


@click.command()
@click.option("--user", required=True, help="Whose; exactly as `llmops interactions list` names them.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Count, and remove nothing.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="The server's directory (.llmops).")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def forget(user: str, yes: bool, dry_run: bool, data_dir: Path | None, as_json: bool) -> None:
    """Remove one person's interactions and feedback from everywhere they were logged. This cannot be undone."""
    if not user:
        raise CommandError("--user is empty; interactions without a user belong to nobody", exit_code=_USAGE)
    settings = server_settings(data_dir=data_dir)
    if not settings.data_dir.is_dir():
        raise CommandError(f"there is no directory '{settings.data_dir}'; --data-dir names the server's")
    if not (dry_run or yes or sys.stdin.isatty()):
        raise CommandError(
            "this removes data for ever: repeat it with --yes, or see what with --dry-run", exit_code=_USAGE
        )
    if dry_run or not yes:
        found = count(settings, user)
        if dry_run:
            _print(found, user, settings, as_json, removed=False)
            return
        _print(found, user, settings, False, removed=False)
        click.confirm(f"Remove all of this for ever, and whatever comes of '{user}' meanwhile?", abort=True, err=True)
    console = Console(stderr=True)
    if console.is_terminal:
        with console.status("removing …"):
            forgotten = forget_user(settings, user)
    else:
        forgotten = forget_user(settings, user)
    _print(forgotten, user, settings, as_json, removed=True)


def _places(found: Forgotten) -> dict[str, int]:
    """How much of each kind, in the order it is looked for."""
    spooled, feedback = found.interactions, found.feedback
    waiting = sum(one.waiting + one.leased for one in (spooled, feedback))
    return {
        "records in spools": waiting,
        "dead letters": spooled.dead + feedback.dead,
        "runs in MLflow": found.mlflow.runs,
        "traces in MLflow": found.mlflow.traces,
        "sessions in MLflow": found.mlflow.sessions,
        "assessments of others' answers": found.mlflow.assessments,
        "rows of evaluation datasets": found.mlflow.copies,
        "comparisons of replays": found.mlflow.comparisons,
        "runs with files": found.mlflow.artifacts,
        **{f"rows of {table}": rows for table, rows in found.rows.items()},
    }


def _print(found: Forgotten, user: str, settings: Settings, as_json: bool, *, removed: bool) -> None:
    places = {place: many for place, many in _places(found).items() if many}
    marked = removed and found.marks_only and (found.mlflow.runs or found.mlflow.comparisons)
    kept = [*found.kept, *([collect_garbage(settings)] if marked else [])]
    if as_json:
        document = {"user": user, "removed": removed, "places": places, "kept": [*kept, _NOT_OURS]}
        click.echo(orjson.dumps(document, option=orjson.OPT_INDENT_2))
        return
    for place, many in places.items():
        click.echo(f"{many} {place} {'removed' if removed else 'found'}")
    if not places:
        click.echo(f"nothing is logged of '{user}'")
    for line in (*kept, _NOT_OURS):
        click.echo(line, err=True)
