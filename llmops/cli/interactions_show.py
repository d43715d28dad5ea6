"""`llmops interactions show`: one interaction, and why it went as it did."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import orjson

from llmops.cli import terminal
from llmops.cli.interactions_rows import clock, number, print_json, usd
from llmops.cli.interactions_wanted import with_data_dir
from llmops.interactions.logged import Assessment, LoggedInteraction, Story
from llmops.interactions.mlflow_reader import MlflowReader
from llmops.interactions.record import Attempt
from llmops.settings import server_settings

_DECISIONS: Mapping[str, str] = {
    "next": "the next served entity was tried",
    "final": "this failure was the answer",
}


@click.command()
@click.argument("name", metavar="ID")
@with_data_dir
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def show(name: str, data_dir: Path | None, as_json: bool) -> None:
    """Show all of one interaction. ID is its own, its run's or its trace's, or the beginning of one of them."""
    story = MlflowReader(server_settings(data_dir=data_dir)).show(name)
    if as_json:
        print_json(story.document())
        return
    lines = [f"{label + ':':<16}{value}" for label, value in _facts(story) if value]
    bodies = (("request", story.request), ("response", story.response))
    lines += [f"\n{title}:\n{_pretty(body)}" for title, body in bodies if body is not None]
    # Not click.echo: what a model or a caller wrote must not drive the terminal.
    with terminal.Output() as output:
        output.write("\n".join(lines))


def _facts(story: Story) -> Iterator[tuple[str, str | None]]:
    yield from _ids(story.interaction)
    yield "outcome", " ".join(part for part in _outcome(story) if part)
    yield from _measures(story.interaction)
    yield from story.params.items()
    for count, attempt in enumerate(story.attempts, start=1):
        yield f"attempt {count}", _attempt(attempt)
    for verdict in story.guardrails:
        yield "guardrail", _verdict(verdict)
    for assessment in story.assessments:
        yield "feedback", _feedback(assessment)


def _ids(one: LoggedInteraction) -> Iterator[tuple[str, str | None]]:
    yield "interaction", one.interaction_id
    yield "run", one.run_id
    yield "trace", one.trace_id
    yield "request id", one.client_request_id
    yield "received", clock(one.received_ms)
    yield "user", one.user
    yield "session", one.session


def _outcome(story: Story) -> Iterator[str | None]:
    one = story.interaction
    yield one.outcome
    yield str(one.status)
    yield one.error_code
    yield story.message and f"- {story.message}"


def _measures(one: LoggedInteraction) -> Iterator[tuple[str, str | None]]:
    yield "time", f"{number(one.latency_ms)} ms"
    if one.first_token_ms is not None:
        yield "first token", f"{number(one.first_token_ms)} ms"
    if one.input_tokens is not None:
        yield "tokens", f"{one.input_tokens} in, {one.output_tokens} out"
    if one.cost_usd is not None:
        yield "cost", f"{usd(one.cost_usd)} USD"


def _attempt(attempt: Attempt) -> str:
    who = " ".join(part for part in (attempt.provider, attempt.model) if part)
    when = f"after {number(attempt.started_ms)} ms, for {number(attempt.duration_ms)} ms"
    if not attempt.error:
        return f"{attempt.served_entity} ({who}), {when}: answered {attempt.status or ''}".rstrip()
    status = f" {attempt.status}" if attempt.status else ""
    why = f"{attempt.error}{status}: {attempt.message}"
    return f"{attempt.served_entity} ({who}), {when}: {why}; {_DECISIONS.get(attempt.decision, attempt.decision)}"


def _verdict(verdict: Mapping[str, Any]) -> str:
    told = {key: value for key, value in verdict.items() if key not in ("name", "started_ms") and value is not None}
    return ", ".join([str(verdict.get("name")), *(f"{key} {_short(value)}" for key, value in told.items())])


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _feedback(assessment: Assessment) -> str:
    value = assessment.value if isinstance(assessment.value, str) else orjson.dumps(assessment.value).decode()
    why = f": {assessment.rationale}" if assessment.rationale else ""
    return f"{assessment.name} {value}, by {assessment.source}{why}"


def _pretty(body: object) -> str:
    return body if isinstance(body, str) else orjson.dumps(body, option=orjson.OPT_INDENT_2).decode()
