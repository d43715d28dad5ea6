"""`llmops completion`: the script that makes a shell complete commands, options and endpoint names."""

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script of a shell.

    \b
    bash:  llmops completion bash >> ~/.bashrc
    zsh:   llmops completion zsh >> ~/.zshrc
    fish:  llmops completion fish > ~/.config/fish/completions/llmops.fish
    """
    script = get_completion_class(shell)
    if script is not None:
        click.echo(script(ctx.find_root().command, {}, "llmops", "_LLMOPS_COMPLETE").source())
