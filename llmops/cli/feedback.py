"""`llmops feedback`: what a person thinks of an answer, kept on its trace in MLflow."""

import click
import orjson

from llmops.cli.connection import with_client
from llmops.client import Client

#: What each kind of opinion is called where no --name is given.
_THUMB, _SCORE, _COMMENT = "user_feedback", "score", "comment"


@click.command()
@click.argument("interaction_id", metavar="ID")
@click.option("--up/--down", "thumb", default=None, help="It was good, or it was not.")
@click.option("--score", type=float, help="A number instead, on whatever scale you keep to.")
@click.option("--comment", metavar="TEXT", help="Why; or, alone, all you have to say.")
@click.option("--name", help="What is judged, correctness for example; else user_feedback, score or comment.")
@click.option("--user", help="Whose opinion it is, where no token says so.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@with_client
def feedback(
    client: Client,
    interaction_id: str,
    thumb: bool | None,
    score: float | None,
    comment: str | None,
    name: str | None,
    user: str | None,
    as_json: bool,
) -> None:
    """Say what an answer was worth. ID is its x-request-id or its trace's.

    It works at once, and reaches MLflow as an assessment after the trace does.
    """
    if thumb is not None and score is not None:
        raise click.UsageError("--up and --down say yes or no, --score a number: give one of them")
    value = thumb if score is None else score
    if value is None and comment is None:
        raise click.UsageError("nothing is said: give --up, --down, --score or --comment")
    default = _COMMENT if value is None else _THUMB if score is None else _SCORE
    said = {
        "interaction_id": interaction_id,
        "name": name or default,
        "value": comment if value is None else value,
        "rationale": None if value is None else comment,
        "user": user,
    }
    kept = client.give_feedback({key: given for key, given in said.items() if given is not None})
    if as_json:
        click.echo(orjson.dumps(kept, option=orjson.OPT_INDENT_2))
    else:
        click.echo(f"thank you; it goes to trace {kept['trace_id']}")
