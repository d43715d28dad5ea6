"""The command `llmops`: the commands by name, and the outer wall every failure ends at as one line and an exit code.

A command's module is imported when the command is called, so that `llmops --help` costs hardly more than click.
"""

import importlib
import io
import os
import sys
from collections.abc import Mapping
from typing import Any

import click

from llmops.errors import CommandError, LlmopsError

#: Each command: where it is, and its line in `llmops --help`.
COMMANDS: Mapping[str, tuple[str, str]] = {
    "serve": ("llmops.cli.serve:serve", "Start the server."),
    "run": ("llmops.cli.run:run", "Start a server, ask it one question, show what was logged."),
    "query": ("llmops.cli.query:query", "Ask an endpoint one question."),
    "chat": ("llmops.cli.chat:chat", "Talk with an endpoint."),
    "endpoints": ("llmops.cli.endpoints:endpoints", "List, show, create, update and delete endpoints."),
    "secrets": ("llmops.cli.secrets:secrets", "Keep the keys that endpoints use, encrypted on the server."),
    "tokens": ("llmops.cli.tokens:tokens", "Let people in: make, list and revoke their tokens."),
    "interactions": ("llmops.cli.interactions:interactions", "See what was asked and answered."),
    "feedback": ("llmops.cli.feedback:feedback", "Say what an answer was worth."),
    "replay": ("llmops.cli.replay:replay", "Ask another endpoint what was asked before, and compare."),
    "tables": ("llmops.cli.tables:tables", "See and tidy the inference tables."),
    "models": ("llmops.cli.models:models", "Fetch and list the files of foundation models."),
    "validate": ("llmops.cli.validate:validate", "Check endpoint files without a server."),
    "plan": ("llmops.cli.plan:plan", "Show what `apply` would change."),
    "apply": ("llmops.cli.apply:apply", "Make a server's endpoints what files say."),
    "export": ("llmops.cli.export:export", "Write a server's endpoints as files."),
    "import": ("llmops.cli.import_config:import_config", "Make endpoint files of another gateway's config."),
    "completion": ("llmops.cli.completion:completion", "Print the completion script of a shell."),
}

USAGE, INTERRUPTED = 64, 130


class Deferred(click.Command):
    """A command known by its name and one line until it is called."""

    def __init__(self, name: str, target: str, line: str) -> None:
        super().__init__(name, help=line, short_help=line)
        self._target = target

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Import the command, and let it read its arguments."""
        module, _, attribute = self._target.partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command.make_context(info_name, args, parent=parent, **extra)


class Root(click.Group):
    """The group of all commands, in the order of their table."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names as `--help` shows them."""
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        """Call the command; a reader who leaves early (`| head`) is a normal end, where click would exit 1."""
        try:
            super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            # What is still buffered goes nowhere, or the interpreter would complain at its own end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except (click.ClickException, click.Abort, click.exceptions.Exit):
            raise
        except Exception as err:
            if ctx.params["debug"]:
                sys.excepthook(type(err), err, err.__traceback__)
            raise


@click.group(
    cls=Root,
    commands={name: Deferred(name, target, line) for name, (target, line) in COMMANDS.items()},
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.option("--debug", is_flag=True, help="Show the traceback of a failure.")
@click.option("--no-color", is_flag=True, help="Write no escape codes; NO_COLOR and TERM=dumb do the same.")
@click.option("--environment-no-color", envvar="NO_COLOR", hidden=True)
@click.option("--environment-term", envvar="TERM", hidden=True)
@click.version_option(package_name="llmops", message="%(prog)s %(version)s")
@click.pass_context
def cli(
    ctx: click.Context,
    debug: bool,
    no_color: bool,
    environment_no_color: str | None,
    environment_term: str | None,
) -> None:
    """Named LLM endpoints on your own machine, and an MLflow run for every interaction."""
    if no_color or environment_no_color or environment_term == "dumb":
        ctx.color = False


def main() -> None:
    """Run the command line and end the process.

    Exit codes: 0 done, 1 failed, 64 wrong usage, 69 no server answers, 130 Ctrl-C; a command may add its own.
    """
    # A lone byte that is no text, in a pipe or from a model, must not end a command.
    for stream in (sys.stdin, sys.stdout):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    sys.exit(_exit_code())


def _exit_code() -> int:
    try:
        code = cli.main(prog_name="llmops", standalone_mode=False)
    except click.UsageError as err:
        err.show()
        return USAGE
    except click.ClickException as err:
        return _failed(err.format_message())
    except click.Abort:
        return INTERRUPTED
    except CommandError as err:
        return _failed(err.message, err.exit_code)
    except LlmopsError as err:
        return _failed(err.message)
    except OSError as err:
        return _failed(str(err))
    except Exception as err:  # noqa: BLE001 - the outer wall.
        return _failed(f"{type(err).__name__}: {err} - this is a bug: `llmops --debug …` shows the traceback")
    return code if isinstance(code, int) else 0


def _failed(message: str, code: int = 1) -> int:
    click.echo(f"llmops: {message}", err=True)
    return code


if __name__ == "__main__":
    main()
