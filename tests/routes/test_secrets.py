"""The secrets API as databricks-sdk drives it, and a secret's way to a call and to nowhere else."""

import json
import sqlite3
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest
from databricks.sdk import WorkspaceClient
from databricks.sdk.errors import (
    BadRequest,
    InvalidParameterValue,
    NotFound,
    ResourceAlreadyExists,
    Unauthenticated,
)
from databricks.sdk.service.workspace import (
    AclItem,
    AclPermission,
    AzureKeyVaultSecretScopeMetadata,
    ScopeBackendType,
    SecretScope,
)

from tests.conftest import NewServer
from tests.logged import flush, runs
from tests.scripts import chat, chat_stream, status
from tests.server import Server, demo, external
from tests.upstream import Upstream

ENDPOINTS, SECRETS = "/api/2.0/serving-endpoints", "/api/2.0/secrets"
CANARY, ROTATED = "sk-canary/Zm9vYmFy+0123456789==", "sk-second/YmF6cXV4+9876543210=="


@pytest.fixture
def workspace(new_server: NewServer, monkeypatch: pytest.MonkeyPatch) -> WorkspaceClient:
    """databricks-sdk on a server of this test's own."""
    server = new_server(demo())
    monkeypatch.setenv("DATABRICKS_HOST", server.url)
    monkeypatch.setenv("DATABRICKS_TOKEN", "anything")
    return WorkspaceClient()


def test_the_sdk_keeps_lists_and_deletes_secrets_and_is_told_no_value(workspace: WorkspaceClient) -> None:
    secrets = workspace.secrets

    secrets.create_scope("openai")
    secrets.create_scope(
        "shared@team", initial_manage_principal="users", scope_backend_type=ScopeBackendType.DATABRICKS
    )
    secrets.put_secret("openai", "key", string_value="ünï")
    secrets.put_secret("openai", "raw", bytes_value=b64encode(b"\x00\xff").decode())
    listed = {secret.key: secret.last_updated_timestamp for secret in secrets.list_secrets("openai")}
    scopes = list(secrets.list_scopes())
    secrets.delete_secret("openai", "raw")
    secrets.delete_scope("shared@team")

    assert scopes == [SecretScope(ScopeBackendType.DATABRICKS, None, name) for name in ("openai", "shared@team")]
    assert list(listed) == ["key", "raw"]
    assert all(isinstance(time, int) and time > 1_700_000_000_000 for time in listed.values())
    for get in (secrets.get_secret, workspace.dbutils.secrets.get):
        with pytest.raises(BadRequest, match="this server tells no value of a secret: name it in an endpoint as"):
            get("openai", "key")
    assert [secret.key for secret in secrets.list_secrets("openai")] == ["key"]
    assert [scope.name for scope in secrets.list_scopes()] == ["openai"]


def test_the_sdk_keeps_acls(workspace: WorkspaceClient) -> None:
    secrets = workspace.secrets
    secrets.create_scope("mine")
    secrets.create_scope("ours", initial_manage_principal="users")

    secrets.put_acl("mine", "ann", AclPermission.READ)
    secrets.put_acl("mine", "ann", AclPermission.WRITE)
    before = list(secrets.list_acls("mine"))
    secrets.delete_acl("mine", "ann")

    assert before == [AclItem("admin", AclPermission.MANAGE), AclItem("ann", AclPermission.WRITE)]
    assert secrets.get_acl("mine", "admin") == AclItem("admin", AclPermission.MANAGE)
    assert list(secrets.list_acls("ours")) == [AclItem("users", AclPermission.MANAGE)]
    with pytest.raises(NotFound):
        secrets.get_acl("mine", "ann")


def test_the_sdk_gets_databricks_errors(workspace: WorkspaceClient) -> None:
    secrets = workspace.secrets
    secrets.create_scope("openai")
    vault = AzureKeyVaultSecretScopeMetadata(resource_id="r", dns_name="d")
    refused: list[tuple[type[Exception], str, Any]] = [
        (ResourceAlreadyExists, "Scope openai already exists!", lambda: secrets.create_scope("openai")),
        (InvalidParameterValue, "scope must be 1 to 128 of letters", lambda: secrets.create_scope("a b")),
        (
            InvalidParameterValue,
            "initial_manage_principal",
            lambda: secrets.create_scope("s", initial_manage_principal="x"),
        ),
        (InvalidParameterValue, "DATABRICKS", lambda: secrets.create_scope("s", backend_azure_keyvault=vault)),
        (NotFound, "Did you mean 'openai'?", lambda: secrets.put_secret("openia", "key", string_value="v")),
        (NotFound, "Did you mean 'openai'?", lambda: list(secrets.list_secrets("openia"))),
        (NotFound, "Scope none does not exist!", lambda: secrets.delete_scope("none")),
        (NotFound, "Secret does not exist", lambda: secrets.delete_secret("openai", "key")),
        (NotFound, "has no acl", lambda: secrets.delete_acl("openai", "ann")),
        (InvalidParameterValue, "base64", lambda: secrets.put_secret("openai", "key", bytes_value="?")),
        (InvalidParameterValue, "131072", lambda: secrets.put_secret("openai", "key", string_value="x" * 131073)),
        (BadRequest, "exactly one of", lambda: secrets.put_secret("openai", "key")),
        (BadRequest, "exactly one", lambda: secrets.put_secret("openai", "key", string_value="a", bytes_value="YQ==")),
    ]

    for kind, message, call in refused:
        with pytest.raises(kind) as error:
            call()
        assert message in str(error.value)


@pytest.mark.parametrize(
    ("path", "body", "told"),
    [
        ("/put", {}, "'scope' must be a text that is not empty"),
        ("/put", {"scope": "s", "key": 5, "string_value": "canary"}, "'key' must be a text that is not empty"),
        ("/put", {"scope": "s", "key": "k", "string_value": ["canary"]}, "'string_value' must be a text"),
        ("/put", {"scope": "s", "key": "k", "bytes_value": "canary\u00e4"}, "'bytes_value' must be base64"),
        ("/acls/put", {"scope": "s", "principal": "p", "permission": "canary"}, "permission must be READ, WRITE or"),
        ("/scopes/create", {"scope": {"canary": 1}}, "'scope' must be a text that is not empty"),
        ("/put", ["canary"], "the body must be a JSON object"),
    ],
)
def test_a_wrong_body_is_said_without_what_it_held(server: Server, path: str, body: Any, told: str) -> None:
    answer = server.post(SECRETS + path, body)

    assert answer.status_code == 400
    assert answer.json()["message"].startswith(told)
    assert "canary" not in answer.text


def test_half_a_character_is_refused(server: Server) -> None:
    for field in ("scope", "key", "string_value"):
        body = {"scope": "s", "key": "k", "string_value": "v", field: "\ud800"}
        answer = server.post_bytes(f"{SECRETS}/put", json.dumps(body).encode())

        assert (answer.status_code, answer.json()["error_code"]) == (400, "BAD_REQUEST")


def test_a_token_is_asked_for_where_there_is_one(new_server: NewServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server = new_server(demo(), environment={"LLMOPS_TOKEN": "the-admins"})
    monkeypatch.setenv("DATABRICKS_HOST", server.url)
    admin, other = (WorkspaceClient(host=server.url, token=token) for token in ("the-admins", "somebody's"))
    admin.secrets.create_scope("s")

    assert list(admin.secrets.list_acls("s")) == [AclItem("admin", AclPermission.MANAGE)]
    with pytest.raises(Unauthenticated, match="a valid token is needed"):
        list(other.secrets.list_scopes())


def test_a_canary_reaches_the_model_and_no_answer_no_log_and_no_file(new_server: NewServer) -> None:
    with Upstream() as upstream:
        server = new_server(demo())
        told = [*_keep(server, CANARY), server.post(ENDPOINTS, external("canary", upstream.url))]
        told += _ask_every_way(server, upstream, CANARY)
        told += [*_keep(server, ROTATED), server.post(f"{SECRETS}/rotate-master", {})]
        told += _ask_every_way(server, upstream, ROTATED)
        told += [server.get(f"{ENDPOINTS}/canary"), server.get(ENDPOINTS), *_secrets(server)]
        told += [server.get(path) for path in ("/metrics", "/openapi.json", "/health", "/ready")]
        sent = {request.headers["authorization"] for request in upstream.requests}
        running = _holding(server.data_dir)
    flush(server)
    server.stop()

    assert sent == {f"Bearer {CANARY}", f"Bearer {ROTATED}"}
    assert {answer.status_code for answer in told} == {200, 400}
    assert [answer.url for answer in told if any(form in answer.content for form in _forms())] == []
    logged = [run.data.tags["response"] for run in runs(server)]
    assert len(logged) == 6
    assert sum("y key is ***" in response for response in logged) == 4
    assert running == _holding(server.data_dir) == []
    assert not any(form in server.log.read_bytes() for form in _forms())
    assert server.logged().count("event=secret_put scope=test key=key by=admin") == 2


def test_an_endpoint_waits_for_its_secret_and_serves_once_it_is_put(new_server: NewServer) -> None:
    with Upstream() as upstream:
        upstream.always(chat("aye"))
        server = new_server(demo(), options=("--no-mlflow-ui", "--workers", "2"))
        server.post(ENDPOINTS, external("waits", upstream.url))
        before = server.endpoint("waits")["state"]["ready"]

        _keep(server, CANARY)

        assert before == "NOT_READY"
        assert [server.ask("waits").status_code for _ in range(8)] == [200] * 8
        assert server.endpoint("waits")["state"]["ready"] == "READY"
        _keep(server, ROTATED)
        assert [server.ask("waits").status_code for _ in range(8)] == [200] * 8
        assert [request.headers["authorization"] for request in upstream.requests[8:]] == [f"Bearer {ROTATED}"] * 8


def test_without_its_master_key_the_server_starts_and_the_endpoint_says_why(new_server: NewServer) -> None:
    with Upstream() as upstream:
        upstream.always(chat("aye"))
        server = new_server(demo(), external("sealed", upstream.url))
        _keep(server, CANARY)
        server.stop()
        kept = (server.data_dir / "master.key").rename(server.data_dir / "elsewhere")

        server.start()
        refused, state = server.ask("sealed"), server.endpoint("sealed")
        other = server.ask("demo").status_code
        kept.rename(server.data_dir / "master.key")
        again = server.ask("sealed").status_code

    reason = state["config"]["served_entities"][0]["state"]["deployment_state_message"]
    assert state["state"]["ready"] == "NOT_READY"
    assert reason.startswith("secret test/key cannot be read: it is sealed with the master key ")
    assert (refused.status_code, refused.json()["message"]) == (400, reason)
    assert "\n" not in reason
    assert (other, again) == (200, 200)


def test_secrets_are_shared_by_the_servers_of_a_database(
    new_server: NewServer, tmp_path: Path, on_postgres: dict[str, str]
) -> None:
    environment = {**on_postgres, "LLMOPS_MASTER_KEY": b64encode(b"k" * 32).decode()}
    with Upstream() as upstream:
        upstream.always(chat("aye"))
        one = new_server(demo(), environment=environment)
        (tmp_path / "other").mkdir()
        with Server(tmp_path / "other", (external("asks", upstream.url),), environment=environment) as other:
            _keep(one, CANARY)
            other.wait(lambda: other.ask("asks").status_code == 200)

            assert {request.headers["authorization"] for request in upstream.requests} == {f"Bearer {CANARY}"}
            assert _holding(one.data_dir) == _holding(other.data_dir) == []


def _keep(server: Server, value: str) -> list[Any]:
    """Put the secret of `external`'s endpoints."""
    server.post(f"{SECRETS}/scopes/create", {"scope": "test"})
    return [server.post(f"{SECRETS}/put", {"scope": "test", "key": "key", "string_value": value})]


def _secrets(server: Server) -> list[Any]:
    return [server.get(f"{SECRETS}/{path}") for path in ("list?scope=test", "get?scope=test&key=key")]


def _ask_every_way(server: Server, upstream: Upstream, key: str) -> list[Any]:
    """Whole, streamed, and refused; the model repeats its key every time."""
    quoting = status(400, {"error": {"message": f"Incorrect API key provided: {key}"}})
    upstream.play(chat(f"My key is {key}."), chat_stream(("My key ", f"is {key}", ".")), quoting)
    return [server.ask("canary"), server.ask("canary", stream=True), server.ask("canary")]


def _forms() -> list[bytes]:
    """Both canaries, as they are, as JSON may write them, in base64, and the beginning of each."""
    values = [value.encode() for value in (CANARY, ROTATED)]
    return [
        form for value in values for form in (value, value.replace(b"/", rb"\/"), b64encode(value)[:-4], value[:12])
    ]


def _holding(folder: Path) -> list[str]:
    """The files under a folder in which a canary stands; databases are read as rows too."""
    found = []
    for path in folder.rglob("*"):
        data = path.read_bytes() if path.is_file() else b""
        if data.startswith(b"SQLite format 3\0"):
            # A page may break a long text; a dump does not.
            database = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
            data += "\n".join(database.iterdump()).encode("utf-8", "surrogatepass")
            database.close()
        if any(form in data for form in _forms()):
            found.append(path.name)
    return found
