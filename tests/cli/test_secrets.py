"""`llmops secrets` on a real server: in a pipe, and in a terminal."""

import json
from pathlib import Path

import pytest

from llmops.client import UNREACHABLE
from tests.cli.shell import llmops, start, terminal
from tests.conftest import NewServer
from tests.endpoints.secret_stores import whole
from tests.server import Server, demo, free_port

VALUE = "sk-canary-0123456789"


@pytest.fixture
def server(new_server: NewServer) -> Server:
    """A server of this test's own, without secrets."""
    return new_server(demo())


def _value(server: Server, scope: str, key: str) -> bytes | None:
    """What a call would read; no door tells it."""
    return whole(server.data_dir, [(scope, key)])[scope, key]


def test_a_pipe_and_a_file_put_values_and_no_output_shows_one(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "key.pem"
    file.write_bytes(b"-----BEGIN\r\nline\n-----END\n")

    piped = llmops(server.url, "secrets", "put", "openai", "key", piped=VALUE.encode() + b"\n")
    again = llmops(server.url, "secrets", "put", "openai", "key", "--json", piped=VALUE.encode() + b"2")
    of_file = llmops(server.url, "secrets", "put", "openai", "pem", "--from-file", str(file))
    listed = llmops(server.url, "secrets", "list")
    as_json = llmops(server.url, "secrets", "list", "--scope", "openai", "--json")
    scopes = llmops(server.url, "secrets", "scopes")
    scopes_json = llmops(server.url, "secrets", "scopes", "--json")

    reference = "{{secrets/openai/key}}"
    assert piped.stdout == f"secret openai/key kept in the new scope; endpoints name it {reference}\n"
    assert json.loads(again.stdout) == {"scope": "openai", "key": "key", "reference": reference}
    assert of_file.stdout.startswith("secret openai/pem kept; endpoints")
    assert [line.split()[:2] for line in listed.stdout.splitlines()] == [
        ["SCOPE", "KEY"],
        ["openai", "key"],
        ["openai", "pem"],
    ]
    assert [(one["scope"], one["key"]) for one in json.loads(as_json.stdout)] == [("openai", "key"), ("openai", "pem")]
    assert scopes.stdout == "openai\n"
    assert json.loads(scopes_json.stdout) == ["openai"]
    assert _value(server, "openai", "key") == f"{VALUE}2".encode()
    assert _value(server, "openai", "pem") == b"-----BEGIN\r\nline\n-----END"
    for done in (piped, again, of_file, listed, as_json):
        assert (done.returncode, done.stderr) == (0, "")
        assert "canary" not in done.stdout


def test_a_terminal_asks_and_shows_nothing_of_what_is_typed(server: Server) -> None:
    shown = terminal(server.url, "secrets", "put", "openai", "key")
    shown.expect_exact("Value of {{secrets/openai/key}}: ")
    shown.waitnoecho()
    shown.sendline(VALUE)
    shown.expect_exact("secret openai/key kept")
    shown.expect_exact("\n")
    before = shown.before

    assert "canary" not in str(before) + shown.read()
    assert _value(server, "openai", "key") == VALUE.encode()


def test_a_value_is_no_argument(server: Server) -> None:
    done = llmops(server.url, "secrets", "put", "openai", "key", VALUE)

    assert done.returncode == 64
    assert llmops(server.url, "secrets", "scopes").stdout == ""


@pytest.mark.parametrize(("piped", "told"), [(b"", "is empty"), (b"\n", "is empty"), (b"\xff", "is not text in UTF-8")])
def test_a_value_that_is_none_is_not_sent(server: Server, piped: bytes, told: str) -> None:
    done = llmops(server.url, "secrets", "put", "openai", "key", piped=piped)

    assert done.returncode == 64
    assert done.stderr.startswith(f"llmops: the value {told}")
    assert llmops(server.url, "secrets", "scopes").stdout == ""


def test_an_unknown_name_brings_the_nearest_one(server: Server) -> None:
    llmops(server.url, "secrets", "put", "openai", "key", piped=b"v")

    listed = llmops(server.url, "secrets", "list", "--scope", "openia")
    deleted = llmops(server.url, "secrets", "delete", "openai", "kye", "--yes")
    wrong = llmops(server.url, "secrets", "put", "open ai", "key", piped=b"v")

    assert (listed.returncode, deleted.returncode, wrong.returncode) == (1, 1, 1)
    assert listed.stderr == "llmops: Scope openia does not exist! Did you mean 'openai'?\n"
    assert deleted.stderr.endswith("scope: openai and key: kye. Did you mean 'key'?\n")
    assert wrong.stderr == "llmops: scope must be 1 to 128 of letters, digits, '-', '_', '.' and '@'\n"


def test_delete_asks_first(server: Server) -> None:
    for key in ("one", "two", "three"):
        llmops(server.url, "secrets", "put", "openai", key, piped=b"v")

    unasked = llmops(server.url, "secrets", "delete", "openai", "one")
    asked = terminal(server.url, "secrets", "delete", "openai", "one")
    asked.expect_exact("Delete secret openai/one? [y/N]: ")
    asked.sendline("y")
    asked.expect_exact("secret openai/one deleted")
    as_json = llmops(server.url, "secrets", "delete", "openai", "two", "--yes", "--json")
    scope = llmops(server.url, "secrets", "delete", "openai", "--yes")
    empty = llmops(server.url, "secrets", "list")

    assert unasked.returncode == 64
    assert "say --yes" in unasked.stderr
    assert json.loads(as_json.stdout) == {"scope": "openai", "key": "two", "deleted": True}
    assert scope.stdout == "scope openai with 1 secrets deleted\n"
    assert (empty.stdout, empty.stderr) == ("", "no secrets; `llmops secrets put SCOPE KEY` keeps one\n")


def test_the_master_key_is_rotated_under_a_running_server(server: Server) -> None:
    llmops(server.url, "secrets", "put", "openai", "key", piped=VALUE.encode())
    before = (server.data_dir / "master.key").read_bytes()

    done = llmops(server.url, "secrets", "rotate-master")
    again = llmops(server.url, "secrets", "rotate-master", "--json")

    assert done.stdout == "1 secrets wrapped with a new master key\n"
    assert json.loads(again.stdout) == {"secrets": 1}
    assert (server.data_dir / "master.key").read_bytes() != before
    assert _value(server, "openai", "key") == VALUE.encode()


def test_of_commands_at_once_all_keep_their_value(server: Server) -> None:
    running = [
        start(server.url, "secrets", "put", "new", f"k{number}", "--from-file", "LICENSE") for number in range(3)
    ]

    assert [one.wait(timeout=20) for one in running] == [0, 0, 0]
    for one in running:
        one.communicate()
    assert llmops(server.url, "secrets", "list", "--json").stdout.count('"scope": "new"') == 3


def test_without_a_server_it_says_so() -> None:
    done = llmops(f"http://127.0.0.1:{free_port()}", "secrets", "list")

    assert done.returncode == UNREACHABLE
    assert "no server answers" in done.stderr
