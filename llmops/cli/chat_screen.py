"""Where the lines of a chat come from: a terminal with history, paste and completion, or a pipe."""

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

import click
from prompt_toolkit import PromptSession
from prompt_toolkit.completion import WordCompleter
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings
from prompt_toolkit.shortcuts import CompleteStyle
from prompt_toolkit.utils import is_dumb_terminal

from llmops.cli import terminal

_HINT = "Ctrl-D or /quit ends the chat"


class Lines(Protocol):
    """What gives the chat its next message or command.

    Attributes:
        interactive: Whether a person types: Ctrl-C then stops an answer, in a pipe it ends the chat.
    """

    interactive: bool

    def read(self, endpoint: str) -> str:
        """Wait for the next one; it may have several lines.

        Raises:
            EOFError: There is none.
        """
        ...


class Plain:
    """One message for each line of stdin: a pipe, or a terminal that knows no escape codes.

    Args:
        interactive: As for every `Lines`.
    """

    def __init__(self, *, interactive: bool) -> None:
        self.interactive = interactive

    def read(self, endpoint: str) -> str:
        """The next line."""
        while True:
            try:
                if self.interactive:
                    click.echo(f"{endpoint}> ", nl=False)
                line = sys.stdin.readline() if sys.stdin is not None else ""
            except KeyboardInterrupt:
                if not self.interactive:
                    raise
                terminal.note(f"\n{_HINT}")
                continue
            if not line:
                raise EOFError
            return line.rstrip("\n")


class Terminal:
    """An input line. A paste of many lines is one message; Enter sends, Alt-Enter begins a new line.

    Args:
        history: The file that keeps what was typed, for its owner only; made where it is missing.
        candidates: Gives the lines that Tab completes to.
    """

    interactive = True

    def __init__(self, history: Path, candidates: Callable[[], Iterable[str]]) -> None:
        keys = KeyBindings()
        keys.add("enter")(lambda event: event.current_buffer.validate_and_handle())
        keys.add("escape", "enter")(lambda event: event.current_buffer.insert_text("\n"))
        self._session: Any = PromptSession(
            history=_history(history),
            key_bindings=keys,
            multiline=True,
            # Completions below the line would reserve its height, and scroll the answer away.
            complete_style=CompleteStyle.READLINE_LIKE,
            complete_while_typing=False,
            completer=WordCompleter(lambda: list(candidates()), sentence=True),
        )

    def read(self, endpoint: str) -> str:
        """Ask for the next message; Ctrl-C drops what was typed and asks again."""
        while True:
            try:
                return str(self._session.prompt(f"{endpoint}> "))
            except KeyboardInterrupt:
                if not self._session.default_buffer.text:
                    terminal.note(_HINT)


def open_lines(history: Path, candidates: Callable[[], Iterable[str]]) -> Lines:
    """The best that stdin and stdout allow; the arguments are those of `Terminal`."""
    interactive = sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty()
    return Terminal(history, candidates) if interactive and not is_dumb_terminal() else Plain(interactive=interactive)


def _history(path: Path) -> History:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
    except OSError:
        return InMemoryHistory()
    return FileHistory(str(path))
