"""`llmops validate`: check endpoint files without a server."""

from collections.abc import Sequence
from pathlib import Path

import click
import orjson

from llmops.endpoints import schema
from llmops.endpoints.files import EndpointFile, read_paths
from llmops.endpoints.spec import EndpointSpec
from llmops.errors import CommandError

DEFAULT = Path("endpoint_configs")
PATHS = click.argument("paths", nargs=-1, type=click.Path(path_type=Path, exists=True))


@click.command()
@PATHS
@click.option("--schema", "as_schema", is_flag=True, help="Print the JSON Schema of endpoint files, for editors.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def validate(paths: tuple[Path, ...], as_schema: bool, as_json: bool) -> None:
    """Check endpoint files, or the files of directories (default: endpoint_configs).

    Prints every problem with its file, line and field. Exits 1 where there is one.
    """
    if as_schema:
        click.echo(schema.text(), nl=False)
        return
    files = read_paths(paths or (DEFAULT,))
    problems = [problem for file in files for problem in file.problems]
    if as_json:
        found = [{"file": str(file.path), "endpoint": file.name, "problems": list(file.problems)} for file in files]
        click.echo(orjson.dumps({"files": found, "problems": len(problems)}))
    else:
        for problem in problems:
            click.echo(problem)
    _refuse(files)
    if not as_json:
        click.echo(f"{len(files)} files, no problems")


def checked(paths: Sequence[Path]) -> dict[str, tuple[Path, EndpointSpec]]:
    """The endpoints of files, by name; every problem is printed, and then none is returned.

    Raises:
        CommandError: There is a problem, or no file.
    """
    files = read_paths(paths or (DEFAULT,))
    for file in files:
        for problem in file.problems:
            click.echo(problem, err=True)
    _refuse(files)
    return {file.name: (file.path, file.spec) for file in files if file.spec is not None}


def _refuse(files: Sequence[EndpointFile]) -> None:
    if not files:
        raise CommandError("no *.yaml file found; name files or a directory")
    if problems := sum(len(file.problems) for file in files):
        wrong = sum(1 for file in files if file.problems)
        raise CommandError(f"{problems} problems in {wrong} of {len(files)} files")
