"""The commands of the chat: lines that begin with a slash. Each is a function from a conversation to a remark."""

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from llmops.cli.chat_session import Conversation
from llmops.cli.query import parse
from llmops.errors import CommandError
from llmops.protocol.task import Task

#: What `/set` completes; every other parameter may be set too.
_PARAMETERS = ("temperature", "max_tokens", "top_p", "stop", "seed")
#: What the conversation itself sends.
_OWN = frozenset({"messages", "stream", "stream_options", "model"})


@dataclass(frozen=True, slots=True)
class Command:
    """One command.

    Attributes:
        usage: Its arguments, as `/help` shows them.
        run: Takes the conversation and what follows the name; returns what to tell the user. Raises `CommandError`
            where it cannot, EOFError to end the chat.
    """

    usage: str
    help: str
    run: Callable[[Conversation, str], str]


def is_command(line: str) -> bool:
    """Whether a line is for the chat and not for the model; ``//`` begins a message that begins with a slash."""
    return line.startswith("/") and not line.startswith("//")


def run(conversation: Conversation, line: str) -> str:
    """Run the command of a line.

    Returns:
        What to tell the user.

    Raises:
        CommandError: There is no such command, or it cannot do what was asked.
        EOFError: The chat shall end.
    """
    name, *rest = line.split(maxsplit=1)
    command = COMMANDS.get(name)
    if command is not None:
        return command.run(conversation, "".join(rest).strip())
    near = difflib.get_close_matches(name, COMMANDS, n=1)
    hint = f"did you mean {near[0]}?" if near else "/help shows all, // begins a message with a slash"
    raise CommandError(f"there is no command {name}: {hint}")


def candidates(endpoints: Sequence[str]) -> Iterator[str]:
    """Whole lines that Tab completes to.

    Args:
        endpoints: The names one can talk with.
    """
    yield from COMMANDS
    yield from (f"/endpoint {name}" for name in endpoints)
    yield from (f"/set {name} " for name in _PARAMETERS)


def reject(name: str, task: str) -> None:
    """Refuse to talk with an endpoint that does something else.

    Raises:
        CommandError: Its task is not chat.
    """
    if task != Task.CHAT:
        raise CommandError(f"endpoint '{name}' has the task {task}, no chat: ask it with `llmops query {name}`")


def _help(conversation: Conversation, argument: str) -> str:
    width = max(len(f"{name} {command.usage}") for name, command in COMMANDS.items())
    lines = [f"{f'{name} {command.usage}':<{width}}  {command.help}" for name, command in COMMANDS.items()]
    keys = "Alt-Enter: new line. Tab: complete. Ctrl-C: stop the answer. Ctrl-D: quit. //: send a message with a slash."
    return "\n".join([*lines, keys])


def _endpoint(conversation: Conversation, argument: str) -> str:
    if not argument:
        found = (endpoint for endpoint in conversation.client.list_endpoints() if endpoint.task == Task.CHAT)
        return "\n".join(
            f"{'*' if one.name == conversation.endpoint else ' '} {one.name}  {one.state}" for one in found
        )
    endpoint = conversation.client.get_endpoint(argument)
    reject(endpoint.name, endpoint.task)
    conversation.endpoint = endpoint.name
    warning = "" if endpoint.ready else f", which is not ready: {endpoint.reason}"
    return f"now talking with {endpoint.name}{warning}"


def _system(conversation: Conversation, argument: str) -> str:
    if argument:
        conversation.system = "" if argument == "-" else argument
    return f"system: {conversation.system}" if conversation.system else "no system message"


def _set(conversation: Conversation, argument: str) -> str:
    name, _, value = argument.partition(" ")
    if name in _OWN:
        raise CommandError(f"'{name}' is not a parameter: the chat sets it itself")
    if value:
        conversation.parameters[name] = parse(value.strip())
    elif name:
        conversation.parameters.pop(name, None)
    return (
        "\n".join(f"{name} = {value!r}" for name, value in conversation.parameters.items()) or "no parameters are set"
    )


def _clear(conversation: Conversation, argument: str) -> str:
    conversation.clear()
    return "forgotten: what follows is a new conversation"


def _quit(conversation: Conversation, argument: str) -> str:
    raise EOFError


COMMANDS: Mapping[str, Command] = {
    "/help": Command("", "show this", _help),
    "/endpoint": Command("[NAME]", "list the endpoints, or talk with another", _endpoint),
    "/system": Command("[TEXT]", "show or set the system message; - for none", _system),
    "/set": Command("[KEY [VALUE]]", "show, set or drop a parameter", _set),
    "/clear": Command("", "forget the conversation, begin a new session", _clear),
    "/quit": Command("", "end the chat", _quit),
}
