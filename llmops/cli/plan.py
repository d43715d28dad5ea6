"""`llmops plan`: what `llmops apply` would change on a server, and nothing is changed."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import orjson

from llmops.cli.connection import with_client
from llmops.cli.validate import PATHS, checked
from llmops.client import Client
from llmops.endpoints.difference import Change, asked, changes
from llmops.endpoints.spec import EndpointSpec
from llmops.errors import InvalidSpec

#: Exit code where files and server differ.
DIFFERENT = 2
_MARKS = {"add": "+", "change": "~", "remove": "-"}
_WIDEST = 200


@dataclass(frozen=True, slots=True)
class Step:
    """What one endpoint needs.

    Attributes:
        kind: add, change, remove or none.
        path: The file that asks for it; None of an endpoint that is removed.
        spec: What it becomes; None where it is removed.
        owner: The file of the server that owns the endpoint, which alone may change it; None of one made over REST.
    """

    kind: str
    name: str
    path: Path | None
    spec: EndpointSpec | None
    changes: Sequence[Change]
    owner: str | None = None

    def document(self) -> dict[str, Any]:
        """The step as plain JSON."""
        path = str(self.path) if self.path else None
        fields = [change.document() for change in self.changes]
        return {"endpoint": self.name, "step": self.kind, "file": path, "owned_by": self.owner, "changes": fields}


@click.command()
@PATHS
@click.option("--prune", is_flag=True, help="Also remove the endpoints that no file names.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@with_client
def plan(client: Client, paths: tuple[Path, ...], prune: bool, as_json: bool) -> None:
    """Show what `llmops apply` would change, field by field; nothing is written.

    PATHS are endpoint files or directories (default: endpoint_configs). Exits 0 where nothing differs, 2 where
    something does. Endpoints that the server's own files own are never removed.
    """
    found = steps(client, paths, prune=prune)
    if as_json:
        click.echo(orjson.dumps({"steps": [step.document() for step in found]}))
    else:
        for step in found:
            show(step)
        click.echo(summary(found))
    if any(step.kind != "none" for step in found):
        click.get_current_context().exit(DIFFERENT)


def steps(client: Client, paths: Sequence[Path], *, prune: bool) -> list[Step]:
    """What each endpoint needs to be what the files say: by file, and then what is to be removed.

    Raises:
        CommandError: A file has problems, or the server does not answer.
    """
    wanted = checked(paths)
    there = {endpoint.name: endpoint.document for endpoint in client.list_endpoints()}
    found = [_step(client, path, spec, there=name in there) for name, (path, spec) in wanted.items()]
    if prune:
        found += [
            _removal(client.get_endpoint(name).document)
            for name, document in there.items()
            if name not in wanted and _owner(document) is None
        ]
    return found


def show(step: Step) -> None:
    """Print a step: the endpoint, then each field as ``old → new``."""
    if step.kind == "none":
        return
    where = f"  {step.path}" if step.path else ""
    owned = f"  (owned by the server's file {step.owner}: change it there)" if step.owner else ""
    click.echo(f"{_MARKS[step.kind]} {step.name}{where}{owned}")
    for change in step.changes if step.kind == "change" else ():
        click.echo(f"    {shown(change)}")


def shown(change: Change) -> str:
    """A change in one line: ``field: old → new``."""
    return f"{change.field}: {_value(change.old)} → {_value(change.new)}"


def summary(found: Sequence[Step]) -> str:
    """The counts of a plan in one line."""
    counts = {kind: sum(step.kind == kind for step in found) for kind in ("add", "change", "remove", "none")}
    return "{add} to add, {change} to change, {remove} to remove, {none} unchanged".format(**counts)


def _step(client: Client, path: Path, spec: EndpointSpec, *, there: bool) -> Step:
    if not there:
        return Step("add", spec.name, path, spec, changes(None, spec))
    answer = client.get_endpoint(spec.name).document
    found = changes(_asked(answer), spec)
    return Step("change" if found else "none", spec.name, path, spec, found, _owner(answer))


def _removal(answer: dict[str, Any]) -> Step:
    return Step("remove", str(answer["name"]), None, None, changes(_asked(answer), None))


def _asked(answer: dict[str, Any]) -> EndpointSpec | None:
    """What an endpoint was asked to be; None where its document cannot be read, so that all of it is new."""
    try:
        return asked(answer)
    except InvalidSpec:
        return None


def _owner(answer: dict[str, Any]) -> str | None:
    source = (answer.get("llmops") or {}).get("source")
    return str(source) if source else None


def _value(value: Any) -> str:
    """A value in one line; JSON, so that it drives no terminal."""
    if value is None:
        return "(none)"
    shown = value if isinstance(value, str) and value.isprintable() and value else orjson.dumps(value).decode()
    return shown if len(shown) <= _WIDEST else f"{shown[: _WIDEST - 1]}…"
