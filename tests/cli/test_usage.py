"""Every command answers wrong usage with exit code 64: click's own is 2, by which `plan` tells of a difference."""

import sys
from collections.abc import Iterator
from pkgutil import resolve_name
from typing import Any

import click
import pytest

from llmops.cli.main import COMMANDS, USAGE, Deferred, _exit_code, cli

Words = tuple[str, ...]


def _tree(command: click.Command, path: Words) -> Iterator[tuple[Words, click.Command]]:
    """A command and all below it, each with the words that call it."""
    if isinstance(command, Deferred):
        command = resolve_name(command._target)
    yield path, command
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from _tree(inner, (*path, name))


def _wrong(path: Words, command: click.Command) -> Iterator[Words]:
    """Ways to call a command that it cannot mean."""
    yield (*path, "--no-such-option")
    taken = [param for param in command.params if isinstance(param, click.Argument)]
    if isinstance(command, click.Group):
        yield (*path, "no-such-command")
    elif all(argument.nargs == 1 for argument in taken):
        yield (*path, *("x" * (len(taken) + 1)))
    if any(param.required for param in command.params):
        yield path
    for param in command.params:
        if isinstance(param, click.Option) and not param.is_flag and not param.count:
            yield (*path, param.opts[-1])
            if not isinstance(param.type, click.types.StringParamType | click.Path | click.File):
                yield (*path, param.opts[-1], "no such value")


EVERY = list(_tree(cli, ()))
CALLS = [words for path, command in EVERY for words in _wrong(path, command)]


@pytest.mark.parametrize("words", CALLS, ids=" ".join)
def test_wrong_usage_exits_64(words: Words, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(sys, "argv", ["llmops", *words])

    assert _exit_code() == USAGE == 64
    told = capsys.readouterr()
    assert told.out == ""
    assert "Error: " in told.err
    assert "Traceback" not in told.err


def test_every_command_is_swept() -> None:
    assert {path[0] for path, _ in EVERY if path} == set(COMMANDS)
    assert len(EVERY) > 40
