"""`llmops secrets`: the encrypted store of a server.

A value comes from a prompt, a pipe or a file, never from an argument: other users of the machine would see it.
"""

import functools
import sys
from collections.abc import Callable
from typing import BinaryIO, Concatenate, ParamSpec

import click

from llmops.cli.interactions_rows import clock, print_json, print_rows
from llmops.errors import CommandError, ServerRefused
from llmops.secret_client import SecretClient, SecretName
from llmops.settings import client_settings

Rest = ParamSpec("Rest")
_USAGE = 64
_CONFLICT = 409

_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_yes = click.option("-y", "--yes", is_flag=True, help="Do not ask.")


def _with_client(command: Callable[Concatenate[SecretClient, Rest], None]) -> Callable[..., None]:
    """Add --host and --token to a command, and call it with the client they name."""

    @click.option("--host", metavar="URL", help="The server; else LLMOPS_HOST, else this machine's port 8080.")
    @click.option("--token", help="The access token; else LLMOPS_TOKEN.")
    @functools.wraps(command)
    def connected(host: str | None, token: str | None, *args: Rest.args, **kwargs: Rest.kwargs) -> None:
        try:
            client = SecretClient(client_settings(host, token))
        except ValueError as err:
            raise CommandError(f"the server's address is not a URL: {err}", exit_code=_USAGE) from err
        command(client, *args, **kwargs)

    return connected


@click.group()
def secrets() -> None:
    """Put, list and delete the keys that endpoints use, encrypted on the server.

    An endpoint names one as {{secrets/SCOPE/KEY}}. A new value is used at once, without a change of the endpoint.
    """


@secrets.command("list")
@click.option("--scope", help="Only the secrets of this scope.")
@_as_json
@_with_client
def list_(client: SecretClient, scope: str | None, as_json: bool) -> None:
    """List secrets by scope and key, never their values."""
    scopes = client.scopes() if scope is None else [scope]
    found = [name for one in scopes for name in client.secrets(one)]
    if as_json:
        print_json([_document(name) for name in found])
    elif found:
        rows = [(name.scope, name.key, clock(name.updated_ms), _reference(name.scope, name.key)) for name in found]
        print_rows(("SCOPE", "KEY", "PUT", "REFERENCE"), rows)
    else:
        click.echo("no secrets; `llmops secrets put SCOPE KEY` keeps one", err=True)


@secrets.command()
@_as_json
@_with_client
def scopes(client: SecretClient, as_json: bool) -> None:
    """List the scopes, one a line."""
    found = client.scopes()
    if as_json:
        print_json(found)
        return
    for name in found:
        click.echo(name)


@secrets.command()
@click.argument("scope")
@click.argument("key")
@click.option("--from-file", "file", type=click.File("rb"), metavar="FILE", help="Take the value from a file.")
@_as_json
@_with_client
def put(client: SecretClient, scope: str, key: str, file: BinaryIO | None, as_json: bool) -> None:
    """Keep a secret, in the place of the old one if there is one. A scope that is missing is made.

    The value is asked for on a terminal, and read from a pipe or --from-file otherwise.
    """
    value = _value(file, _reference(scope, key))
    made = _ensure_scope(client, scope)
    client.put_secret(scope, key, value)
    if as_json:
        print_json({"scope": scope, "key": key, "reference": _reference(scope, key)})
    else:
        where = " in the new scope" if made else ""
        click.echo(f"secret {scope}/{key} kept{where}; endpoints name it {_reference(scope, key)}")


@secrets.command()
@click.argument("scope")
@click.argument("key", required=False)
@_yes
@_as_json
@_with_client
def delete(client: SecretClient, scope: str, key: str | None, yes: bool, as_json: bool) -> None:
    """Delete a secret; without KEY, the scope with every secret in it."""
    what = f"scope {scope} with {len(client.secrets(scope))} secrets" if key is None else f"secret {scope}/{key}"
    if not yes and not sys.stdin.isatty():
        raise click.UsageError("there is no terminal to ask on: say --yes")
    if not yes:
        click.confirm(f"Delete {what}?", abort=True)
    if key is None:
        client.delete_scope(scope)
    else:
        client.delete_secret(scope, key)
    if as_json:
        print_json({"scope": scope, "key": key, "deleted": True})
    else:
        click.echo(f"{what} deleted")


@secrets.command("rotate-master")
@_as_json
@_with_client
def rotate_master(client: SecretClient, as_json: bool) -> None:
    """Wrap every secret with a new master key, and forget the old one. No value changes.

    Where LLMOPS_MASTER_KEY is set, set it to NEW,OLD on the server first; when this is done, to NEW.
    """
    count = client.rotate_master()
    if as_json:
        print_json({"secrets": count})
    else:
        click.echo(f"{count} secrets wrapped with a new master key")


def _ensure_scope(client: SecretClient, scope: str) -> bool:
    """Make a scope if there is none; tells whether it did. Of two commands at once, one does."""
    if scope in client.scopes():
        return False
    try:
        client.create_scope(scope)
    except ServerRefused as err:
        if err.status != _CONFLICT:
            raise
        return False
    return True


def _value(file: BinaryIO | None, reference: str) -> str:
    """The value as a text; the line end that an editor or `echo` adds is not part of it.

    Raises:
        CommandError: It is empty, or no text.
    """
    if file is None and sys.stdin.isatty():
        value: str = click.prompt(f"Value of {reference}", hide_input=True, err=True)
        return value
    data = (file or sys.stdin.buffer).read()
    try:
        text = data.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise CommandError("the value is not text in UTF-8", exit_code=_USAGE) from None
    if not text:
        raise CommandError("the value is empty: pipe it in, or name --from-file", exit_code=_USAGE)
    return text


def _reference(scope: str, key: str) -> str:
    return f"{{{{secrets/{scope}/{key}}}}}"


def _document(name: SecretName) -> dict[str, str | int]:
    return {
        "scope": name.scope,
        "key": name.key,
        "last_updated_timestamp": name.updated_ms,
        "reference": _reference(name.scope, name.key),
    }
