"""`llmops query`: one question to one endpoint; the answer on stdout, the facts about it on stderr."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import click
import orjson

from llmops.cli import terminal
from llmops.cli.connection import complete_endpoint, with_client
from llmops.client import Answer, Client, Document
from llmops.errors import CommandError
from llmops.protocol import chat, completions
from llmops.protocol.task import FIELD, Task

#: How many numbers of a vector a terminal shows.
_SHOWN_NUMBERS = 4
_NO_TEXT = "the answer has no text (a tool call?): --json shows all of it"


@click.command()
@click.argument("endpoint", shell_complete=complete_endpoint)
@click.argument("prompt", required=False)
@click.option("--system", help="What the model is told before the question; chat endpoints only.")
@click.option("-o", "--option", "options", multiple=True, metavar="KEY=VALUE", help="A parameter, as max_tokens=100.")
@click.option("--stream/--no-stream", default=None, help="Show the answer as it comes; the default on a terminal.")
@click.option("--json", "as_json", is_flag=True, help="Print the whole response and its facts as one JSON object.")
@click.option("-q", "--quiet", is_flag=True, help="Print no facts.")
@with_client
def query(
    client: Client,
    endpoint: str,
    prompt: str | None,
    system: str | None,
    options: Sequence[str],
    stream: bool | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Ask ENDPOINT one question: PROMPT, or what a pipe brings ('-' or nothing), or both, the pipe last.

    \b
    llmops query demo "Why is the sky blue?"
    git diff | llmops query local-qwen3 "Write a commit message for:" -o max_tokens=80
    """
    text = _question(prompt)
    task = _task(client, endpoint)
    body = {**_input(task, text, system), **_parameters(options)}
    if stream is None:
        stream = sys.stdout.isatty() and not as_json
    if stream and task is not Task.EMBEDDINGS:
        answer = _streamed(client, endpoint, task, body, show=not as_json)
    else:
        answer = client.invoke(endpoint, body)
        if not as_json:
            _show(task, answer.document)
    if as_json:
        document = {**answer.document, "llmops": asdict(answer.facts)}
        click.echo(orjson.dumps(document, option=orjson.OPT_INDENT_2))
    elif not quiet:
        terminal.note(terminal.facts_line(answer.facts))


def _task(client: Client, endpoint: str) -> Task:
    name = client.get_endpoint(endpoint).task
    if name in list(Task):
        return Task(name)
    raise CommandError(f"endpoint '{endpoint}' has the task '{name}', which takes no question in words")


def _question(prompt: str | None) -> str:
    given = "" if prompt in (None, "-") else prompt.encode(errors="surrogateescape").decode(errors="replace")
    piped = ""
    if sys.stdin is not None and (prompt == "-" or not sys.stdin.isatty()):
        piped = sys.stdin.buffer.read().decode(errors="replace").removesuffix("\n")
    text = "\n\n".join(part for part in (given, piped) if part.strip())
    if not text:
        raise click.UsageError("there is no question: give a prompt, or pipe one in")
    return text


def _input(task: Task, text: str, system: str | None) -> Document:
    if task is Task.CHAT:
        told = [] if system is None else [{"role": "system", "content": system}]
        return {FIELD[task]: [*told, {"role": "user", "content": text}]}
    if system is not None:
        raise click.UsageError(f"--system is for chat endpoints; the task of this one is {task}")
    return {FIELD[task]: text}


def _parameters(options: Sequence[str]) -> Document:
    pairs = [option.partition("=") for option in options]
    for name, equals, _ in pairs:
        if not (name and equals):
            raise click.UsageError(f"-o {name}: a parameter is written key=value, as max_tokens=100")
    return {name: parse(value) for name, _, value in pairs}


def parse(value: str) -> Any:
    """The value of a parameter as a person types it: JSON where it is JSON, else the text itself."""
    try:
        return orjson.loads(value)
    except ValueError:
        return value


def _streamed(client: Client, endpoint: str, task: Task, body: Document, *, show: bool) -> Answer:
    text_of, fold = (chat.delta_text, chat.fold) if task is Task.CHAT else (completions.answer_text, completions.fold)
    chunks: list[Document] = []
    with client.stream(endpoint, body) as reply, terminal.Output() as output:
        for chunk in reply:
            chunks.append(chunk)
            if show:
                output.write(text_of(chunk))
    if show and output.empty:
        terminal.note(_NO_TEXT)
    return Answer(fold(chunks) if chunks else {}, reply.facts)


def _show(task: Task, document: Document) -> None:
    text_of = {Task.CHAT: chat.answer_text, Task.COMPLETIONS: completions.answer_text, Task.EMBEDDINGS: _vector}[task]
    with terminal.Output() as output:
        output.write(text_of(document))
    if output.empty:
        terminal.note(_NO_TEXT)


def _vector(document: Mapping[str, Any]) -> str:
    rows = document.get("data")
    vector = rows[0].get("embedding") if isinstance(rows, list) and rows and isinstance(rows[0], dict) else None
    if not isinstance(vector, list) or not sys.stdout.isatty():
        return orjson.dumps(vector).decode()
    shown = ", ".join(f"{number:.4f}" for number in vector[:_SHOWN_NUMBERS])
    return f"[{shown}, …] {len(vector)} numbers" if len(vector) > _SHOWN_NUMBERS else f"[{shown}]"
