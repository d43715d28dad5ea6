"""`llmops tokens`: who may use a server. A token's value is shown once, when it is made."""

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any, Concatenate, ParamSpec

import click

from llmops.cli.interactions_rows import clock, print_json, print_rows
from llmops.client import MANAGE_TIMEOUT_S, Client, Document
from llmops.errors import CommandError
from llmops.settings import client_settings

Rest = ParamSpec("Rest")
_USAGE = 64
_TOKENS = "/api/2.0/token"
_UNITS = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400, "y": 365 * 86400}

_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


class TokenClient(Client):
    """The server's tokens; every method raises what those of `Client` raise."""

    def create(self, asked: Mapping[str, Any]) -> Document:
        """Make a token; the answer tells its value and what it is."""
        return self._ask("POST", "/create", asked)

    def tokens(self) -> list[Document]:
        """Every token, without its value."""
        return list(self._ask("GET", "/list")["token_infos"])

    def revoke(self, token_id: str) -> None:
        """Forget a token."""
        self._ask("POST", "/delete", {"token_id": token_id})

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Document:
        with self._send(method, _TOKENS + path, body, timeout_s=MANAGE_TIMEOUT_S) as response:
            return self._document(response, None)


def _with_client(command: Callable[Concatenate[TokenClient, Rest], None]) -> Callable[..., None]:
    """Add --host and --token to a command, and call it with the client they name."""

    @click.option("--host", metavar="URL", help="The server; else LLMOPS_HOST, else this machine's port 8080.")
    @click.option("--token", help="The access token of an admin; else LLMOPS_TOKEN.")
    @functools.wraps(command)
    def connected(host: str | None, token: str | None, *args: Rest.args, **kwargs: Rest.kwargs) -> None:
        try:
            client = TokenClient(client_settings(host, token))
        except ValueError as err:
            raise CommandError(f"the server's address is not a URL: {err}", exit_code=_USAGE) from err
        command(client, *args, **kwargs)

    return connected


def _seconds(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """A time like 30d, as seconds."""
    if value is None:
        return None
    found = re.fullmatch(r"([0-9]{1,6})([mhdwy])", value)
    if found is None or int(found[1]) == 0:
        raise click.BadParameter(f"'{value}' is not a time; write 90m, 12h, 30d, 2w or 1y", ctx, param)
    return int(found[1]) * _UNITS[found[2]]


@click.group()
def tokens() -> None:
    """Make, list and revoke the tokens that let people and programs in.

    As soon as there is one, the server asks everybody for a token; the first must be an --admin's.
    """


@tokens.command()
@click.option("--user", required=True, help="Whose it is; named in the record of every call.")
@click.option("--group", "groups", multiple=True, help="A group the user is in; give it again for more.")
@click.option("--admin", is_flag=True, help="May do everything: endpoints, permissions, secrets, tokens.")
@click.option("--expires", callback=_seconds, metavar="TIME", help="Stops working after 90m, 12h, 30d or 1y.")
@click.option("--comment", default="", help="What it is for.")
@_as_json
@_with_client
def create(
    client: TokenClient,
    user: str,
    groups: tuple[str, ...],
    admin: bool,
    expires: int | None,
    comment: str,
    as_json: bool,
) -> None:
    """Make a token and show its value: once, on standard output."""
    asked = {"user": user, "groups": list(groups), "admin": admin, "lifetime_seconds": expires, "comment": comment}
    made = client.create(asked)
    if as_json:
        print_json(made)
        return
    told = made["token_info"]
    click.echo(made["token_value"])
    click.echo(f"token {told['token_id']} of {user}, {_ends(told)}; its value is not shown again", err=True)


@tokens.command("list")
@_as_json
@_with_client
def list_(client: TokenClient, as_json: bool) -> None:
    """List the tokens, never their values."""
    found = client.tokens()
    if as_json:
        print_json(found)
    elif found:
        print_rows(("ID", "USER", "GROUPS", "MADE", "ENDS", "COMMENT"), [_row(one) for one in found])
    else:
        click.echo("no tokens; `llmops tokens create --user NAME --admin` makes the first", err=True)


@tokens.command()
@click.argument("token_id", metavar="ID")
@_as_json
@_with_client
def revoke(client: TokenClient, token_id: str, as_json: bool) -> None:
    """Revoke a token; it stops working within two seconds."""
    client.revoke(token_id)
    if as_json:
        print_json({"token_id": token_id, "revoked": True})
    else:
        click.echo(f"token {token_id} revoked")


def _row(told: Document) -> tuple[str, ...]:
    groups = ", ".join([*(["admins"] if told["admin"] else []), *told["groups"]])
    ends = "never" if told["expiry_time"] < 0 else clock(told["expiry_time"])
    return told["token_id"], told["user"], groups, clock(told["creation_time"]), ends, told["comment"]


def _ends(told: Document) -> str:
    return "which does not expire" if told["expiry_time"] < 0 else f"good until {clock(told['expiry_time'])}"
