"""What people see: answers on stdout, everything about them on stderr in one quiet style."""

import shutil
import sys
import textwrap
from collections.abc import Mapping
from typing import Self

import click

from llmops.client import Facts

#: A model must not drive the terminal: its control characters are shown as pictures (U+2400 …), line ends and tabs
#: apart; C1 controls, which some terminals obey too, and carriage returns are dropped.
_SHOWN: Mapping[int, int | None] = {
    **{code: 0x2400 + code for code in range(0x20) if code not in (0x09, 0x0A)},
    0x0D: None,
    0x7F: 0x2421,
    **dict.fromkeys(range(0x80, 0xA0)),
}


class Output:
    """An answer on stdout, written piece by piece inside ``with``; its last line is ended.

    Attributes:
        empty: Whether nothing was written.
    """

    def __init__(self) -> None:
        self.empty = True
        self._open_line = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._open_line:
            self.write("\n")

    def write(self, text: str) -> None:
        """Write a piece at once; in a pipe exactly as it came."""
        if text:
            self.empty = False
            self._open_line = not text.endswith("\n")
            # Not click.echo: it would take escape codes out of what a pipe gets.
            sys.stdout.write(text.translate(_SHOWN) if sys.stdout.isatty() else text)
            sys.stdout.flush()


def note(text: str) -> None:
    """Write a remark to stderr: dim and at most as wide as the terminal, plain where stderr is none."""
    if sys.stderr.isatty():
        width = shutil.get_terminal_size().columns
        text = "\n".join(_wrapped(line, width) for line in text.translate(_SHOWN).split("\n"))
    click.secho(text.replace("\N{NO-BREAK SPACE}", " "), err=True, dim=True)


def facts_line(facts: Facts) -> str:
    """The facts of an invocation in one line; what the server did not tell is left out."""
    parts = [f"{facts.endpoint} -> {facts.served_entity}" if facts.served_entity else facts.endpoint]
    if facts.usage is not None:
        parts.append(f"{facts.usage.input_tokens} in, {facts.usage.output_tokens} out")
    if facts.first_token_ms is not None:
        parts.append(f"first token {facts.first_token_ms:.0f} ms")
    parts.append(f"{facts.latency_ms:.0f} ms")
    names = (("run", facts.run_id), ("trace", facts.trace_id), ("interaction", facts.interaction_id))
    parts += [f"{kind} {name}" for kind, name in names if name][:1]
    # A no-break space keeps a name and its number on one line.
    return " · ".join(part.replace(" ", "\N{NO-BREAK SPACE}") for part in parts)


def _wrapped(line: str, width: int) -> str:
    return textwrap.fill(line, width, break_long_words=False, break_on_hyphens=False)
