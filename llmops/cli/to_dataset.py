"""`llmops interactions to-dataset`: an MLflow evaluation dataset made of what was asked."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from llmops.cli import terminal
from llmops.cli.interactions_rows import print_json
from llmops.cli.interactions_wanted import with_data_dir, with_wanted
from llmops.errors import NotFound
from llmops.experiments.dataset import Extended, extend
from llmops.experiments.question import Question, Unfit, newest, question
from llmops.interactions.logged import LoggedInteraction, Wanted
from llmops.interactions.mlflow_reader import MlflowReader
from llmops.settings import server_settings


@click.command("to-dataset")
@click.argument("name")
@click.option("--expect-logged", is_flag=True, help="Expect the logged answers; those without a whole one are skipped.")
@click.option("--limit", default=1000, show_default=True, type=click.IntRange(1, 100_000), help="The newest so many.")
@with_data_dir
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@with_wanted
def to_dataset(
    wanted: Wanted, name: str, expect_logged: bool, limit: int, data_dir: Path | None, as_json: bool
) -> None:
    """Make the MLflow evaluation dataset NAME of what was asked, or add to it.

    Inputs are the messages and parameters, the source is the trace. Every input is there once: run it again to add
    what is new. Rows that are there are left as they are; --expect-logged adds expectations to those without.

    \b
    llmops interactions to-dataset hard-ones --endpoint chat --status error
    llmops interactions to-dataset golden --endpoint chat --since 7d --expect-logged
    """
    settings = server_settings(data_dir=data_dir)
    reader = MlflowReader(settings)
    endpoints: dict[str, int] = {}

    def questions() -> Iterator[Question | Unfit]:
        for one in newest(reader, [wanted], limit, time.time_ns() // 1_000_000):
            endpoints[one.endpoint] = endpoints.get(one.endpoint, 0) + 1
            yield asked(reader, one)

    with _shown() as bar:
        task = bar.add_task("reading", total=limit)
        extended = extend(
            settings,
            name,
            questions(),
            expect_logged=expect_logged,
            told=lambda count: bar.update(task, completed=count),
        )
    looked = sum(endpoints.values())
    if as_json:
        print_json({**asdict(extended), "interactions": looked})
        return
    if looked == limit:
        terminal.note(f"only the newest {limit} were looked at; --limit takes more")
    _print(extended, max(endpoints, key=lambda endpoint: endpoints[endpoint], default=""))


def asked(reader: MlflowReader, one: LoggedInteraction) -> Question | Unfit:
    """The question of an interaction."""
    try:
        return question(reader.show(one.interaction_id))
    except NotFound:
        return Unfit("it was deleted meanwhile")


@contextmanager
def _shown() -> Iterator[Progress]:
    """A progress bar on a terminal, nothing elsewhere."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        yield bar


def _print(extended: Extended, endpoint: str) -> None:
    skipped = sum(extended.skipped.values())
    counts = [f"{extended.new} new rows", f"{extended.known + extended.completed} already there", f"{skipped} skipped"]
    if extended.completed:
        counts.insert(2, f"{extended.completed} of them with an expectation now")
    click.echo(f"dataset '{extended.name}' ({extended.dataset_id or 'not made'}): {', '.join(counts)}")
    for reason, count in sorted(extended.skipped.items(), key=lambda item: -item[1]):
        click.echo(f"  {count} skipped: {reason}")
    if extended.dataset_id is None:
        terminal.note("no interaction fits" if not skipped else "nothing was left to be a row")
        return
    predict = f'get_deploy_client("databricks").predict(endpoint="{endpoint}", inputs=row)'
    data = f'mlflow.genai.datasets.get_dataset(dataset_id="{extended.dataset_id}")'
    click.echo(f"mlflow.genai.evaluate(data={data}, predict_fn=lambda **row: {predict}, scorers=[…])")
