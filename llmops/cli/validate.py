"""`llmops validate`: check endpoint files without a server."""

from pathlib import Path

import click
import orjson

from llmops.endpoints.files import EndpointFile, read_directory, read_file
from llmops.errors import CommandError


@click.command()
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path, exists=True))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def validate(paths: tuple[Path, ...], as_json: bool) -> None:
    """Check endpoint files, or the files of directories (default: endpoint_configs).

    Prints every problem with its file, line and field. Exits 1 where there is one.
    """
    files: list[EndpointFile] = []
    for path in paths or (Path("endpoint_configs"),):
        files += read_directory(path) if path.is_dir() or not paths else [read_file(path)]
    problems = [problem for file in files for problem in file.problems]
    if as_json:
        found = [{"file": str(file.path), "endpoint": file.name, "problems": list(file.problems)} for file in files]
        click.echo(orjson.dumps({"files": found, "problems": len(problems)}))
    else:
        for problem in problems:
            click.echo(problem)
    if not files:
        raise CommandError("no *.yaml file found; name files or a directory")
    if problems:
        wrong = sum(1 for file in files if file.problems)
        raise CommandError(f"{len(problems)} problems in {wrong} of {len(files)} files")
    if not as_json:
        click.echo(f"{len(files)} files, no problems")
