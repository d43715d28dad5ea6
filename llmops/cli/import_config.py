"""`llmops import`: endpoint files from the config of another gateway."""

from pathlib import Path

import click

from llmops.cli.validate import DEFAULT
from llmops.endpoints.export import write
from llmops.endpoints.importers.formats import FORMATS, harvest
from llmops.errors import CommandError


@click.command(name="import")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("-o", "--out", type=click.Path(path_type=Path, file_okay=False), default=DEFAULT, show_default=True)
@click.option("--format", "format_", type=click.Choice(sorted(FORMATS)), help="Of the file; else it is found out.")
@click.option("--force", is_flag=True, help="Overwrite files that say something else.")
@click.option("--strict", is_flag=True, help="Exit 1 where a field could not be carried over.")
def import_config(file: Path, out: Path, format_: str | None, force: bool, strict: bool) -> None:
    """Make endpoint files of FILE: MLflow's gateway YAML, litellm's config.yaml, or Databricks' endpoint JSON.

    Writes one file for each endpoint. What could not be carried over is listed on stderr with its place and the
    reason. A key is never written or shown: a reference stands in its place, and the variable to set is named.
    """
    found = harvest(file, format_)
    refused = []
    for spec in found.specs:
        try:
            written = write(out, spec, force=force)
        except CommandError as err:
            refused.append(err.message)
            continue
        click.echo(f"{out / spec.name}.yaml: {'written' if written else 'unchanged'}")
    for left in found.left:
        click.echo(f"{file}: {left.place}: {left.reason}", err=True)
    for key in found.keys.values():
        origin = f'"{key.origin}"' if key.origin.startswith("$") else f"...  # the key at {key.origin} of {file}"
        click.echo(f"set on the server: export {key.variable}={origin}", err=True)
    for message in refused:
        click.echo(message, err=True)
    if refused:
        raise CommandError(f"{len(refused)} of {len(found.specs)} endpoints were not written")
    if not found.specs:
        raise CommandError(f"{file}: no endpoint could be made of it")
    if found.left and strict:
        raise CommandError(f"{len(found.left)} fields could not be carried over")
