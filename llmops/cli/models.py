"""`llmops models`: the weights of foundation models on this machine."""

import json
from pathlib import Path

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from llmops.endpoints.files import read_directory
from llmops.errors import CommandError, UpstreamUnreachable
from llmops.providers import model_files, model_hub
from llmops.settings import server_settings

DATA_DIR = click.option("--data-dir", type=click.Path(path_type=Path), help="Holds the model files (.llmops).")
CONFIGS = click.option(
    "--configs",
    type=click.Path(path_type=Path),
    default=Path("endpoint_configs"),
    help="Endpoint files, to find weights by the name of their endpoint (endpoint_configs).",
)
JSON = click.option("--json", "as_json", is_flag=True, help="Write JSON to stdout.")
MODEL = click.argument("model", metavar="SOURCE|ENDPOINT")


@click.group()
def models() -> None:
    """Fetch, list and remove the weights of foundation models."""


@models.command()
@MODEL
@CONFIGS
@DATA_DIR
@JSON
def pull(model: str, configs: Path, data_dir: Path | None, as_json: bool) -> None:
    """Fetch weights: hf://org/repo/file.gguf[@revision], or those an endpoint names.

    Goes on where an interrupted pull stopped. HF_TOKEN and HF_ENDPOINT are honoured.
    """
    model_dir = _model_dir(data_dir)
    sources = _sources(model, configs)
    pulled = [(source, _pull(source, model_dir)) for source in sources]
    if as_json:
        click.echo(json.dumps([{"source": source, "path": str(path)} for source, path in pulled]))
        return
    for _, path in pulled:
        click.echo(path)


@models.command("list")
@DATA_DIR
@JSON
def list_models(data_dir: Path | None, as_json: bool) -> None:
    """Show the weights that are here, and those on their way."""
    found = model_files.listing(_model_dir(data_dir))
    if as_json:
        rows = [
            {"source": file.source, "path": str(file.path), "size_bytes": file.size_bytes, "complete": file.complete}
            for file in found
        ]
        click.echo(json.dumps(rows))
        return
    if not found:
        click.echo("no weights are here; fetch some: llmops models pull SOURCE|ENDPOINT", err=True)
    for file in found:
        click.echo(f"{_size(file.size_bytes):>10}  {'ready     ' if file.complete else 'incomplete'}  {file.source}")


@models.command()
@MODEL
@CONFIGS
@DATA_DIR
@JSON
def remove(model: str, configs: Path, data_dir: Path | None, as_json: bool) -> None:
    """Delete weights that were pulled; an engine that has them open keeps them until it ends."""
    freed = sum(model_files.remove(source, _model_dir(data_dir)) for source in _sources(model, configs))
    if not freed:
        raise CommandError(f"no weights of '{model}' are here: llmops models list shows those that are")
    click.echo(json.dumps({"freed_bytes": freed}) if as_json else f"freed {_size(freed)}")


def _model_dir(data_dir: Path | None) -> Path:
    return server_settings(data_dir=data_dir).model_dir


def _sources(model: str, configs: Path) -> list[str]:
    """The sources on the hub that a name stands for."""
    if model.startswith(model_files.SCHEME):
        return [model]
    known: dict[str, list[str]] = {}
    for file in read_directory(configs):
        if file.name == model and file.spec is None:
            raise CommandError("\n".join(file.problems))
        entities = file.spec.config.served_entities if file.spec else []
        known[file.name] = [entity.llmops.source for entity in entities if entity.llmops.source]
    sources = [source for source in known.get(model, ()) if source.startswith(model_files.SCHEME)]
    if sources:
        return sources
    if known.get(model):
        raise CommandError(f"the weights of endpoint '{model}' are your own file, {known[model][0]}")
    pullable = ", ".join(sorted(name for name in known if known[name])) or "none"
    raise CommandError(f"'{model}' is neither an hf:// source nor an endpoint of {configs} with weights: {pullable}")


def _pull(source: str, model_dir: Path) -> Path:
    console = Console(stderr=True, no_color=click.get_current_context().color is False)
    try:
        if not console.is_terminal:
            return model_hub.pull(source, model_dir, _Lines())
        with _bars(console) as progress:
            return model_hub.pull(source, model_dir, _Bars(progress))
    except UpstreamUnreachable as err:
        raise CommandError(err.message, exit_code=69) from err


def _bars(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
    )


class _Bars:
    """A bar for each file, for a terminal."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, name: str, done: int, total: int) -> None:
        if name not in self._tasks:
            # What an earlier pull brought counts as done, not as speed.
            self._tasks[name] = self._progress.add_task(name, total=total, completed=done)
        self._progress.update(self._tasks[name], completed=done)


class _Lines:
    """A line for each tenth of a file, for a pipe or a log."""

    def __init__(self) -> None:
        self._tenths: dict[str, int] = {}

    def __call__(self, name: str, done: int, total: int) -> None:
        tenth = 10 * done // total
        if tenth != self._tenths.get(name):
            self._tenths[name] = tenth
            click.echo(f"{name}: {10 * tenth} % of {_size(total)}", err=True)


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:.2f} GB" if size_bytes >= 1e9 else f"{size_bytes / 1e6:.1f} MB"
