"""`llmops interactions list`: which interactions there were."""

from pathlib import Path

import click

from llmops.cli import terminal
from llmops.cli.interactions_rows import clock, number, one_line, print_json, print_rows, usd
from llmops.cli.interactions_wanted import with_data_dir, with_wanted
from llmops.interactions.logged import LoggedInteraction, Wanted
from llmops.interactions.mlflow_reader import MlflowReader
from llmops.settings import server_settings

_COLUMNS = ("TIME", "ENDPOINT", "STATUS", "MS", "IN", "OUT", "USD", "INTERACTION", "PROMPT")
_NUMBERS = ("MS", "IN", "OUT", "USD")
_PROMPT_CHARS = 48


@click.command("list")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, 1000))
@click.option("--page-token", metavar="TOKEN", help="What the page before ended with; with the same options.")
@with_data_dir
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@with_wanted
def list_(wanted: Wanted, limit: int, page_token: str | None, data_dir: Path | None, as_json: bool) -> None:
    """List interactions, newest first.

    --contains looks at the whole request and the whole response.
    """
    page = MlflowReader(server_settings(data_dir=data_dir)).page(wanted, limit, page_token)
    if as_json:
        print_json(page.document())
        return
    if page.interactions:
        print_rows(_COLUMNS, [_row(one) for one in page.interactions], right=_NUMBERS)
    else:
        terminal.note("no interaction fits" if page.token is None else "no interaction on this page fits")
    if page.token:
        terminal.note(f"more: the same command with --page-token {page.token}")


def _row(one: LoggedInteraction) -> tuple[str, ...]:
    return (
        clock(one.received_ms),
        one.endpoint,
        str(one.status),
        number(one.latency_ms),
        number(one.input_tokens),
        number(one.output_tokens),
        usd(one.cost_usd),
        one.interaction_id,
        one_line(one.prompt, _PROMPT_CHARS),
    )
