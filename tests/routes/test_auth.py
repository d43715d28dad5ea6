"""Who may come in, with a token and without one."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server import Server, demo

TOKEN = "a-token"


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with an admin token."""
    with Server(tmp_path_factory.mktemp("locked"), (demo(),), environment={"LLMOPS_TOKEN": TOKEN}) as running:
        yield running


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": f"Bearer {TOKEN}"},
        {"authorization": f"bearer {TOKEN}"},
        {"authorization": "Basic dG9rZW46YS10b2tlbg=="},
        {"x-api-key": TOKEN},
        {"api-key": TOKEN},
    ],
)
def test_one_extractor_reads_every_credential_header(locked: Server, headers: dict[str, str]) -> None:
    assert locked.get("/api/2.0/serving-endpoints", headers=headers).status_code == 200
    answer = locked.post("/v1/chat/completions", {"model": "demo", "messages": [{"role": "user"}]}, headers=headers)
    assert answer.status_code == 200


@pytest.mark.parametrize("given", ["Bearer wrong", "Bearer", "Basic !!!", "Bearer a-toke\xff", "a-token"])
def test_a_wrong_credential_is_refused_without_being_repeated(locked: Server, given: str) -> None:
    answer = locked.get("/v1/models", headers={"authorization": given.encode("latin-1")})

    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert "wrong" not in answer.text


def test_without_a_token_a_web_page_cannot_drive_the_server(server: Server) -> None:
    assert server.get("/v1/models", headers={"host": "evil.example"}).status_code == 403
    assert server.get("/v1/models", headers={"origin": "https://evil.example"}).status_code == 403
    assert server.get("/v1/models", headers={"origin": "null"}).status_code == 403
    assert server.get("/v1/models", headers={"origin": "http://localhost:3000"}).status_code == 200
    foreign = server.post("/serving-endpoints/demo/invocations", {"messages": [{}]}, headers={"host": "evil.example"})
    assert foreign.status_code == 403


def test_without_a_token_any_credential_is_accepted(server: Server) -> None:
    assert server.get("/v1/models", headers={"authorization": "Bearer whatever"}).status_code == 200


def test_an_address_beyond_loopback_needs_a_token(tmp_path: Path) -> None:
    server = Server(tmp_path, (demo(),), options=("--no-mlflow-ui", "--host", "0.0.0.0"))

    with pytest.raises(AssertionError, match="the server ended"):
        server.start()

    assert "0.0.0.0 can be reached by other machines: set LLMOPS_TOKEN first, or serve on 127.0.0.1" in server.logged()
