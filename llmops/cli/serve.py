"""`llmops serve`: a server in the foreground."""

import asyncio
import logging
import secrets
from dataclasses import replace
from pathlib import Path

import click

from llmops.endpoints.files import EndpointFile, read_directory
from llmops.endpoints.watch import Watch
from llmops.settings import DEFAULT_PORT, reach_loopback_directly, server_settings
from llmops.supervisor import Supervisor


@click.command()
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address to listen on; any but loopback needs LLMOPS_TOKEN."
)
@click.option("--port", default=DEFAULT_PORT, show_default=True, type=click.IntRange(1, 65535))
@click.option(
    "--configs",
    default="endpoint_configs",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Directory of endpoint files.",
)
@click.option("--data-dir", type=click.Path(path_type=Path), help="Store, spools, MLflow files.  [default: .llmops]")
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1, 64), help="Gateway processes.")
@click.option("--no-mlflow-ui", is_flag=True, help="Do not start MLflow's own server.")
@click.option(
    "--mlflow-ui-port", default=0, type=click.IntRange(0, 65535), help="Port of MLflow's server.  [default: a free one]"
)
@click.option("--watch", is_flag=True, help="Serve changes of endpoint files as they are made.")
def serve(
    host: str,
    port: int,
    configs: Path,
    data_dir: Path | None,
    workers: int,
    no_mlflow_ui: bool,
    mlflow_ui_port: int,
    watch: bool,
) -> None:
    """Serve the endpoints of --configs and those created over REST.

    Every interaction becomes an MLflow run with a trace. Ctrl-C or SIGTERM lets running requests end.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    settings = server_settings(
        host=host,
        port=port,
        configs=configs,
        data_dir=data_dir,
        workers=workers,
        mlflow_ui=not no_mlflow_ui,
        mlflow_ui_port=mlflow_ui_port,
    )
    files = read_directory(configs)
    for line in problems(files):
        click.echo(line, err=True)
    reach_loopback_directly()
    # The key of this run's child processes: made anew, known to nobody else, written nowhere.
    settings = replace(settings, internal_key=secrets.token_urlsafe(32))
    watcher = Watch(configs, files) if watch else None
    asyncio.run(Supervisor(settings, files, lambda line: click.echo(line), watcher).run())


def problems(files: list[EndpointFile]) -> list[str]:
    """Every problem of every file, one line each."""
    return [problem for file in files for problem in file.problems]
