"""How a command finds its server: the options --host and --token, and the completion of endpoint names."""

import functools
from collections.abc import Callable
from typing import Concatenate, ParamSpec

import click

from llmops.client import Client
from llmops.errors import CommandError
from llmops.settings import client_settings

Rest = ParamSpec("Rest")


def with_client(command: Callable[Concatenate[Client, Rest], None]) -> Callable[..., None]:
    """Add --host and --token to a command, and call it with the client they name."""

    @click.option("--host", metavar="URL", help="The server; else LLMOPS_HOST, else this machine's port 8080.")
    @click.option("--token", help="The access token; else LLMOPS_TOKEN.")
    @functools.wraps(command)
    def connected(host: str | None, token: str | None, *args: Rest.args, **kwargs: Rest.kwargs) -> None:
        command(_client(host, token), *args, **kwargs)

    return connected


def complete_endpoint(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """The endpoint names a shell may complete; none where the server does not answer."""
    try:
        endpoints = _client(ctx.params.get("host"), ctx.params.get("token")).list_endpoints()
    except CommandError:
        return []
    return [endpoint.name for endpoint in endpoints if endpoint.name.startswith(incomplete)]


def _client(host: str | None, token: str | None) -> Client:
    try:
        return Client(client_settings(host, token))
    except ValueError as err:
        raise CommandError(f"the server's address is not a URL: {err}", exit_code=64) from err
