"""`llmops interactions flush`: wait until the log is where it belongs."""

from pathlib import Path

import click

from llmops.cli.interactions_rows import print_json
from llmops.cli.interactions_wanted import with_data_dir
from llmops.errors import CommandError
from llmops.interactions.flush import flush as flush_spools
from llmops.settings import server_settings


@click.command()
@click.option("--timeout", default=60.0, show_default=True, type=click.FloatRange(0), help="Seconds.")
@with_data_dir
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def flush(timeout: float, data_dir: Path | None, as_json: bool) -> None:
    """Wait until everything that was answered is in MLflow; without a server, bring it there."""
    left = flush_spools(server_settings(data_dir=data_dir), timeout)
    if as_json:
        print_json({"left": left})
    if left:
        raise CommandError(f"{left} interactions are not in MLflow after {timeout:g} seconds; is MLflow reachable?")
    if not as_json:
        click.echo("everything is in MLflow")
