"""`llmops replay`: what was asked before, asked again of another endpoint, and both answers compared."""

import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from llmops.cli import terminal
from llmops.cli.connection import complete_endpoint, with_client
from llmops.cli.interactions_rows import number, one_line, print_json, print_rows, usd
from llmops.cli.interactions_wanted import with_data_dir, with_filters
from llmops.cli.to_dataset import asked
from llmops.client import Client
from llmops.errors import CommandError, LlmopsError
from llmops.experiments.arrivals import Arrivals
from llmops.experiments.budget import Budget
from llmops.experiments.comparison import Row, arrived, compare, figures
from llmops.experiments.comparison_page import figure_lines, summary
from llmops.experiments.comparison_run import ComparisonRun
from llmops.experiments.question import Question, Unfit, newest
from llmops.experiments.replay import Asker, ask_all
from llmops.interactions.logged import LoggedInteraction, Wanted
from llmops.interactions.mlflow_reader import MlflowReader
from llmops.interactions.replays import EXPERIMENT, PREFIX
from llmops.settings import Settings, server_settings

#: How long the last interactions may take to MLflow; after Ctrl-C a person waits.
_PATIENCE_S, _SHORT_PATIENCE_S = 15.0, 2.0
_COLUMNS = ("FIGURE", "BEFORE", "AFTER", "DIFFERENCE")
_SHOWN_FAILURES, _FAILURE_CHARS = 3, 200


@dataclass(frozen=True, slots=True)
class Plan:
    """What is asked of whom.

    Attributes:
        target: The endpoint that is asked.
        sources: The endpoints whose interactions are taken; empty for all.
    """

    target: str
    sources: tuple[str, ...]
    limit: int
    concurrency: int
    max_cost_usd: float | None


@click.command()
@click.option("--endpoint", "target", required=True, shell_complete=complete_endpoint, help="The endpoint to ask now.")
@click.option("--from", "sources", multiple=True, metavar="ENDPOINT", help="Asked of this endpoint; several may be.")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1, 10_000), help="The newest so many.")
@click.option("--concurrency", default=4, show_default=True, type=click.IntRange(1, 64), help="So many at a time.")
@click.option("--max-cost", "max_cost_usd", type=click.FloatRange(0, min_open=True), metavar="USD", help="Stop before.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@with_data_dir
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@with_client
@with_filters
def replay(
    wanted: Wanted,
    client: Client,
    target: str,
    sources: tuple[str, ...],
    limit: int,
    concurrency: int,
    max_cost_usd: float | None,
    yes: bool,
    data_dir: Path | None,
    as_json: bool,
) -> None:
    """Ask another endpoint what was asked before, and log how the answers compare as an MLflow run.

    --endpoint is the one that is asked now; --from and the other options choose what was logged. Requests are sent as
    they were, but not as a stream, and not in the name of their users. Failures are rows of the comparison.

    \b
    llmops replay --from chat --since 1d --endpoint cheaper
    llmops replay --from chat --status error --endpoint chat --limit 20
    """
    settings = server_settings(data_dir=data_dir)
    plan = Plan(target, tuple(dict.fromkeys(sources)), limit, concurrency, max_cost_usd)
    endpoint = client.get_endpoint(target)
    if not endpoint.ready:
        raise CommandError(f"endpoint '{target}' is not ready: {endpoint.reason}")
    reader = MlflowReader(settings)
    wishes = [replace(wanted, endpoint=source) for source in plan.sources] or [wanted]
    chosen = list(newest(reader, wishes, limit, time.time_ns() // 1_000_000))
    if not chosen:
        raise CommandError("no interaction fits; `llmops interactions list` takes the same options")
    if not yes:
        _confirm(chosen, target)
    _Replay(settings, client, reader, plan, wanted, endpoint.task).run(chosen, as_json=as_json)


class _Replay:
    """One replay, from its run's begin to its end."""

    def __init__(
        self, settings: Settings, client: Client, reader: MlflowReader, plan: Plan, wanted: Wanted, task: str
    ) -> None:
        self._reader = reader
        self._plan = plan
        self._task = task
        params = {
            "to": plan.target,
            "from": ", ".join(plan.sources) or "any",
            **{f"filter.{key}": value for key, value in asdict(wanted).items() if value is not None},
            "limit": plan.limit,
            "concurrency": plan.concurrency,
            "max_cost_usd": plan.max_cost_usd,
        }
        self._run = ComparisonRun(settings, f"{params['from']} → {plan.target}", params)
        self._asker = Asker(client, plan.target, self._run.run_id)
        self._arrivals = Arrivals(reader, plan.target, time.time_ns() // 1_000_000)
        self._budget = Budget(self._arrivals, plan.max_cost_usd)
        self._rows: list[Row] = []
        self._skipped: Counter[str] = Counter()

    def run(self, chosen: Sequence[LoggedInteraction], *, as_json: bool) -> None:
        """Ask, settle, log, print."""
        status, failure = "FINISHED", None
        try:
            self._ask(chosen)
        except KeyboardInterrupt:
            status = "KILLED"
        except LlmopsError as err:
            status, failure = "FAILED", err
        self._settle(_SHORT_PATIENCE_S if status != "FINISHED" else _PATIENCE_S)
        metrics = figures(self._rows)
        try:
            self._run.end(self._rows, metrics, status)
        finally:
            self._print(metrics, status, as_json=as_json)
        if failure is not None:
            raise failure
        if status == "KILLED":
            raise click.Abort

    def _ask(self, chosen: Sequence[LoggedInteraction]) -> None:
        with _shown(len(chosen)) as (bar, task):
            for reply in ask_all(self._asker, self._questions(chosen), self._plan.concurrency, self._budget):
                self._rows.append(compare(reply, self._plan.target))
                if reply.interaction_id:
                    self._arrivals.expect(reply.interaction_id)
                bar.update(task, completed=len(self._rows) + self._skipped.total())

    def _questions(self, chosen: Sequence[LoggedInteraction]) -> Iterator[Question]:
        for one in chosen:
            match self._question(one):
                case Unfit(reason):
                    self._skipped[reason] += 1
                case question:
                    yield question

    def _question(self, one: LoggedInteraction) -> Question | Unfit:
        if (one.client_request_id or "").startswith(PREFIX):
            return Unfit("it is a replay itself")
        question = asked(self._reader, one)
        if isinstance(question, Question) and question.task != self._task:
            return Unfit(f"its task is {question.task}, which '{self._plan.target}' does not have")
        return question

    def _settle(self, patience_s: float) -> None:
        """Take times, tokens and costs from the log, as far as they arrive there."""
        try:
            self._arrivals.settle(patience_s)
        except (KeyboardInterrupt, LlmopsError):
            terminal.note("not all of the new interactions were read back")
        found = self._arrivals.found
        here = ((row, found.get(row.after.interaction_id or "")) for row in self._rows)
        rows = [row if one is None else arrived(row, one) for row, one in here]
        # Ids sort by time; replies came in any order.
        self._rows = sorted(rows, key=lambda row: row.before.interaction_id or "", reverse=True)

    def _print(self, metrics: dict[str, float], status: str, *, as_json: bool) -> None:
        if as_json:
            about = {"run_id": self._run.run_id, "experiment": EXPERIMENT, "status": status}
            ended = {"stopped": self._budget.over or None, "skipped": dict(self._skipped)}
            print_json({**about, **ended, "metrics": metrics})
            return
        click.echo(summary(metrics))
        lines = list(figure_lines(metrics))
        if lines:
            print_rows(_COLUMNS, lines, right=_COLUMNS[1:])
        failures = Counter(one_line(row.after.failure, _FAILURE_CHARS) for row in self._rows if row.after.failure)
        for failure, count in failures.most_common(_SHOWN_FAILURES):
            click.echo(f"{count} failed: {failure}")
        for reason, count in self._skipped.most_common():
            click.echo(f"{count} skipped: {reason}")
        if self._budget.over:
            click.echo(f"stopped: {self._budget.over}")
        if away := int(metrics["not_logged"]):
            terminal.note(f"{away} of the new interactions are not in this MLflow: their times are the client's")
        click.echo(f"run {self._run.run_id} in experiment {EXPERIMENT}")


@contextmanager
def _shown(total: int) -> Iterator[tuple[Progress, TaskID]]:
    """A progress bar on a terminal, nothing elsewhere."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        yield bar, bar.add_task("asking", total=total)


def _confirm(chosen: Sequence[LoggedInteraction], target: str) -> None:
    if not sys.stdin.isatty():
        raise click.UsageError("there is no terminal to ask on: say --yes")
    tokens = sum(one.input_tokens or 0 for one in chosen)
    costs = [one.cost_usd for one in chosen if one.cost_usd is not None]
    before = f"; they had {number(tokens)} tokens in" + (f", and cost {usd(sum(costs))} USD" if costs else "")
    click.confirm(f"Ask '{target}' {len(chosen)} questions{before}. Go on?", abort=True, err=True)
