"""`llmops tokens` on a real server."""

import json

import pytest

from tests.cli.shell import llmops
from tests.conftest import NewServer
from tests.server import Server, demo

ADMIN = {"LLMOPS_TOKEN": "the-operators-token"}


@pytest.fixture
def server(new_server: NewServer) -> Server:
    """A server that asks for tokens."""
    return new_server(demo(), environment=ADMIN)


def test_a_token_is_made_shown_once_used_and_revoked(server: Server) -> None:
    made = llmops(server.url, "tokens", "create", "--user", "ann", "--group", "dev", "--expires", "30d", more=ADMIN)
    value = {"LLMOPS_TOKEN": made.stdout.strip()}
    used = llmops(server.url, "endpoints", "list", "--json", more=value)
    listed = llmops(server.url, "tokens", "list", more=ADMIN)
    (told,) = json.loads(llmops(server.url, "tokens", "list", "--json", more=ADMIN).stdout)
    revoked = llmops(server.url, "tokens", "revoke", told["token_id"], more=ADMIN)
    server.wait(lambda: llmops(server.url, "endpoints", "list", more=value).returncode != 0, 5)

    assert made.stdout.startswith("llmops-")
    assert made.stderr.startswith(f"token {told['token_id']} of ann, good until ")
    assert [one["name"] for one in json.loads(used.stdout)] == ["demo"]
    assert listed.stdout.splitlines()[0].split() == ["ID", "USER", "GROUPS", "MADE", "ENDS", "COMMENT"]
    assert listed.stdout.splitlines()[1].split()[:3] == [told["token_id"], "ann", "dev"]
    assert told["expiry_time"] - told["creation_time"] == 30 * 86_400_000
    assert value["LLMOPS_TOKEN"] not in listed.stdout + str(told)
    assert revoked.stdout == f"token {told['token_id']} revoked\n"


def test_who_is_no_admin_manages_no_tokens(server: Server) -> None:
    value = llmops(server.url, "tokens", "create", "--user", "ann", more=ADMIN).stdout.strip()

    done = llmops(server.url, "tokens", "create", "--user", "bob", "--admin", more={"LLMOPS_TOKEN": value})

    assert done.returncode == 1
    assert done.stdout == ""
    assert "User 'ann' is not an admin; only an admin may do this" in done.stderr


@pytest.mark.parametrize("given", ["30", "0d", "-1d", "1.5h", "30s", "9999999d"])
def test_a_time_that_is_none_is_wrong_usage(server: Server, given: str) -> None:
    done = llmops(server.url, "tokens", "create", "--user", "ann", "--expires", given, more=ADMIN)

    assert done.returncode == 64
    assert "write 90m, 12h, 30d, 2w or 1y" in done.stderr


def test_no_tokens_is_said_where_people_read_it(server: Server) -> None:
    done = llmops(server.url, "tokens", "list", more=ADMIN)

    assert (done.returncode, done.stdout) == (0, "")
    assert "no tokens; `llmops tokens create" in done.stderr
    assert json.loads(llmops(server.url, "tokens", "create", "--user", "a", "--json", more=ADMIN).stdout)["token_value"]
