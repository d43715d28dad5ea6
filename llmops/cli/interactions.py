"""`llmops interactions`: what was asked and answered, read back from MLflow, and the way there.

Each command is a file of its own, imported when it is called: most of them import MLflow, which takes seconds.
"""

from collections.abc import Mapping

import click

from llmops.cli.main import Deferred

#: Each command: where it is, and its line in `llmops interactions --help`.
COMMANDS: Mapping[str, tuple[str, str]] = {
    "list": ("llmops.cli.interactions_list:list_", "List interactions, newest first."),
    "show": ("llmops.cli.interactions_show:show", "Show all of one interaction, and why it went as it did."),
    "tail": ("llmops.cli.interactions_tail:tail", "Show the newest interactions, and go on with those that arrive."),
    "stats": ("llmops.cli.interactions_stats:stats", "Sum up each endpoint: how many, how fast, how dear."),
    "flush": ("llmops.cli.interactions_flush:flush", "Wait until everything that was answered is in MLflow."),
    "dead": ("llmops.cli.dead_letters:dead", "See and retry what MLflow or a table did not take."),
    "to-dataset": ("llmops.cli.to_dataset:to_dataset", "Make an MLflow evaluation dataset of what was asked."),
    "prune": ("llmops.cli.prune:prune", "Delete interactions that are too old."),
    "forget": ("llmops.cli.forget:forget", "Remove one person's data from everywhere it was logged."),
}


class Group(click.Group):
    """A group of commands in the order of their table."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names as `--help` shows them."""
        return list(self.commands)


@click.group(cls=Group, commands={name: Deferred(name, target, line) for name, (target, line) in COMMANDS.items()})
def interactions() -> None:
    """See what was asked and answered. Every interaction is a run with a trace in MLflow."""
