"""`llmops chat`: talk with an endpoint. Answers go to stdout, everything else to stderr."""

import click

from llmops.cli import terminal
from llmops.cli.chat_commands import candidates, is_command, reject, run
from llmops.cli.chat_screen import Lines, open_lines
from llmops.cli.chat_session import Conversation
from llmops.cli.connection import complete_endpoint, with_client
from llmops.client import Client, Endpoint
from llmops.errors import CommandError
from llmops.protocol.task import Task
from llmops.settings import server_settings

#: Who answers where nobody was named: the local model if its weights are here, else the one that needs none.
_PREFERRED = ("local-qwen3", "demo")


@click.command()
@click.argument("endpoint", required=False, shell_complete=complete_endpoint)
@with_client
def chat(client: Client, endpoint: str | None) -> None:
    """Talk with ENDPOINT; with the local model or the demo where none is named. /help in the chat says more."""
    endpoints = client.list_endpoints()
    chosen = client.get_endpoint(endpoint) if endpoint else _default(endpoints)
    reject(chosen.name, chosen.task)
    names = [known.name for known in endpoints if known.task == Task.CHAT]
    lines = open_lines(server_settings().data_dir / "chat_history", lambda: candidates(names))
    if lines.interactive:
        terminal.note(f"talking with {chosen.name}; /help shows what you can do, Ctrl-D ends it")
    if not chosen.ready:
        terminal.note(f"endpoint '{chosen.name}' is not ready: {chosen.reason}")
    _converse(Conversation(client, chosen.name), lines)


def _default(endpoints: list[Endpoint]) -> Endpoint:
    ready = {known.name: known for known in endpoints if known.ready and known.task == Task.CHAT}
    for name in (*_PREFERRED, *ready):
        if name in ready:
            return ready[name]
    raise CommandError("no chat endpoint is ready: `llmops endpoints list` shows why")


def _converse(conversation: Conversation, lines: Lines) -> None:
    while True:
        stopped = False
        try:
            stopped = _take(conversation, lines.read(conversation.endpoint))
        except EOFError:
            return
        except CommandError as err:
            terminal.note(f"error: {err.message}")
        except KeyboardInterrupt:
            stopped = True
            terminal.note("stopped")
        if stopped and not lines.interactive:
            raise KeyboardInterrupt


def _take(conversation: Conversation, text: str) -> bool:
    """Run a command or ask a question; returns whether the user stopped the answer."""
    if is_command(text):
        terminal.note(run(conversation, text))
        return False
    if not text.strip():
        return False
    with terminal.Output() as output:
        turn = conversation.ask(text[1:] if text.startswith("//") else text, output.write)
    if output.empty:
        terminal.note("the answer has no text, and is not part of the conversation")
    terminal.note(("stopped · " if turn.stopped else "") + terminal.facts_line(turn.facts))
    return turn.stopped
