"""`llmops apply`: make a server's endpoints what files say, each in one step or not at all."""

import sys
from collections.abc import Sequence
from pathlib import Path

import click
import orjson

from llmops.cli.connection import with_client
from llmops.cli.plan import Step, steps
from llmops.cli.validate import PATHS
from llmops.client import Client
from llmops.errors import CommandError, ServerRefused

_DONE = {"add": "added", "change": "changed", "remove": "removed", "none": "unchanged"}


@click.command()
@PATHS
@click.option("--prune", is_flag=True, help="Also remove the endpoints that no file names.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask before endpoints are removed.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@with_client
def apply(client: Client, paths: tuple[Path, ...], prune: bool, yes: bool, as_json: bool) -> None:
    """Make the endpoints of a server what files say; `llmops plan` shows what that would be.

    PATHS are endpoint files or directories (default: endpoint_configs). Each endpoint changes in one step or not at
    all, and a second time nothing changes. What the server refuses is told, and the others are done. Exits 1 where an
    endpoint was refused.
    """
    found = steps(client, paths, prune=prune)
    removed = [step.name for step in found if step.kind == "remove"]
    if removed and not yes:
        _ask(removed)
    failed = 0
    told = []
    for step in found:
        refused = _take(client, step)
        failed += refused is not None
        told.append({"endpoint": step.name, "step": step.kind, "done": refused is None, "reason": refused or ""})
        if not as_json:
            line = f"refused: {refused}" if refused else _DONE[step.kind]
            click.echo(f"{step.name}: {line}")
    if as_json:
        click.echo(orjson.dumps({"endpoints": told}))
    if failed:
        raise CommandError(f"{failed} of {len(found)} endpoints were refused")


def _take(client: Client, step: Step) -> str | None:
    """Do a step; returns why the server refused it, None where it did not."""
    if step.owner is not None and step.kind != "none":
        return f"the server's file {step.owner} owns it; change it there ({step.path} says something else)"
    try:
        if step.spec is None:
            client.delete_endpoint(step.name)
        elif step.kind == "add":
            client.create_endpoint(step.spec.document())
        elif step.kind == "change":
            client.replace_endpoint(step.name, step.spec.document())
    except ServerRefused as err:
        return err.message
    return None


def _ask(names: Sequence[str]) -> None:
    if not sys.stdin.isatty():
        raise click.UsageError(f"this removes {', '.join(names)}, and there is no terminal to ask on: say --yes")
    click.confirm(f"Remove {', '.join(names)}?", abort=True)
