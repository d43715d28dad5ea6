"""`llmops export`: a server's endpoints as files, with references and never values."""

from pathlib import Path

import click

from llmops.cli.connection import complete_endpoint, with_client
from llmops.client import Client
from llmops.endpoints.difference import asked
from llmops.endpoints.export import text, write
from llmops.endpoints.spec import EndpointSpec
from llmops.errors import CommandError, InvalidSpec


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME]...", shell_complete=complete_endpoint)
@click.option("-o", "--out", type=click.Path(path_type=Path, file_okay=False), help="The directory; else stdout.")
@click.option("--force", is_flag=True, help="Overwrite files that say something else.")
@with_client
def export(client: Client, names: tuple[str, ...], out: Path | None, force: bool) -> None:
    """Write endpoints of a server as YAML (default: all of them).

    What the server adds (ids, times, states) is left out, keys stay references, and `llmops plan` finds no difference
    afterwards.
    """
    wanted = names or tuple(sorted(endpoint.name for endpoint in client.list_endpoints()))
    specs = [_spec(client, name) for name in wanted]
    if out is None:
        click.echo("---\n".join(text(spec) for spec in specs), nl=False)
        return
    for spec in specs:
        written = write(out, spec, force=force)
        click.echo(f"{out / spec.name}.yaml: {'written' if written else 'unchanged'}")


def _spec(client: Client, name: str) -> EndpointSpec:
    try:
        return asked(client.get_endpoint(name).document)
    except InvalidSpec as err:
        raise CommandError(f"endpoint '{name}' cannot be exported: {err.message}") from err
