"""databricks-sdk around the endpoints: secrets, who the caller is, the workspace."""

import sys
import uuid
from base64 import b64encode
from collections.abc import Iterator

import pytest
from databricks.sdk import WorkspaceClient
from databricks.sdk.errors import BadRequest, NotFound, ResourceAlreadyExists, Unauthenticated
from databricks.sdk.service.workspace import AclPermission, SecretsAPI

from tests.clients.stage import BODIES, Stage, unnamed


@pytest.fixture
def secrets() -> SecretsAPI:
    return WorkspaceClient().secrets


@pytest.fixture
def scope(secrets: SecretsAPI) -> Iterator[str]:
    """A scope of this test's own."""
    name = f"scope-{uuid.uuid4().hex[:8]}"
    secrets.create_scope(name)
    yield name
    secrets.delete_scope(name)


@pytest.mark.call("secrets.create_scope", "secrets.list_scopes", "secrets.delete_scope")
def test_a_scope_is_created_listed_and_deleted(secrets: SecretsAPI) -> None:
    name = f"scope-{uuid.uuid4().hex[:8]}"

    secrets.create_scope(name, initial_manage_principal="users")
    listed = {scope.name for scope in secrets.list_scopes()}
    with pytest.raises(ResourceAlreadyExists, match=name):
        secrets.create_scope(name)
    secrets.delete_scope(name)

    assert name in listed
    with pytest.raises(NotFound, match=name):
        secrets.delete_scope(name)


@pytest.mark.call("secrets.put_secret", "secrets.list_secrets", "secrets.delete_secret")
def test_a_secret_is_put_listed_and_deleted(secrets: SecretsAPI, scope: str) -> None:
    secrets.put_secret(scope, "text", string_value="sesame")
    secrets.put_secret(scope, "bytes", bytes_value=b64encode(b"\x00\xff").decode())

    listed = {secret.key: secret.last_updated_timestamp for secret in secrets.list_secrets(scope)}
    secrets.delete_secret(scope, "text")

    assert set(listed) == {"text", "bytes"}
    assert all(listed.values())
    assert [secret.key for secret in secrets.list_secrets(scope)] == ["bytes"]
    with pytest.raises(NotFound, match="text"):
        secrets.delete_secret(scope, "text")


@pytest.mark.refused("secrets.get_secret")
def test_a_value_is_told_to_nobody(secrets: SecretsAPI, scope: str) -> None:
    """Databricks answers this inside its notebooks alone; a missing key is refused like one that is there."""
    secrets.put_secret(scope, "text", string_value="sesame")

    for key in ("text", "none"):
        with pytest.raises(BadRequest, match="this server tells no value of a secret"):
            secrets.get_secret(scope, key)


@pytest.mark.call("secrets.put_secret")
def test_an_endpoint_sends_the_secret_that_was_put_last(secrets: SecretsAPI, scope: str, stage: Stage) -> None:
    document = stage.document()
    document["config"]["served_entities"][0]["external_model"]["openai_config"] = {
        "openai_api_key": f"{{{{secrets/{scope}/key}}}}"
    }
    secrets.put_secret(scope, "key", string_value="sk-first")
    endpoints = WorkspaceClient().api_client
    endpoints.do("POST", "/api/2.0/serving-endpoints", body=document)

    path = f"/serving-endpoints/{document['name']}/invocations"
    endpoints.do("POST", path, body=BODIES["llm/v1/chat"])
    secrets.put_secret(scope, "key", string_value="sk-second")
    endpoints.do("POST", path, body=BODIES["llm/v1/chat"])

    sent = [request.headers["authorization"] for request in stage.upstream.requests[-2:]]
    assert sent == ["Bearer sk-first", "Bearer sk-second"]


@pytest.mark.call("secrets.put_acl", "secrets.get_acl", "secrets.list_acls", "secrets.delete_acl")
def test_acls_are_put_got_listed_and_deleted(secrets: SecretsAPI, scope: str) -> None:
    secrets.put_acl(scope, "ann", AclPermission.WRITE)
    secrets.put_acl(scope, "red", AclPermission.READ)

    got = secrets.get_acl(scope, "ann")
    listed = {acl.principal: acl.permission for acl in secrets.list_acls(scope)}
    secrets.delete_acl(scope, "ann")

    assert (got.principal, got.permission) == ("ann", AclPermission.WRITE)
    assert {"ann": AclPermission.WRITE, "red": AclPermission.READ}.items() <= listed.items()
    # Its creator keeps MANAGE.
    assert listed["admin"] is AclPermission.MANAGE
    with pytest.raises(NotFound, match="ann"):
        secrets.get_acl(scope, "ann")


@pytest.mark.call("current_user.me", "get_workspace_id")
def test_the_caller_is_the_owner_of_the_token() -> None:
    workspace = WorkspaceClient()

    me = workspace.current_user.me()

    assert (me.user_name, me.active) == ("admin", True)
    assert isinstance(workspace.get_workspace_id(), int)


@pytest.mark.call("current_user.me")
def test_a_wrong_token_is_unauthenticated() -> None:
    with pytest.raises(Unauthenticated, match="a valid token is needed"):
        WorkspaceClient(token="wrong").current_user.me()


@pytest.mark.refused("serving_endpoints_data_plane.query")
def test_the_data_plane_is_not_to_be_had(stage: Stage) -> None:
    """It is for route-optimised endpoints with OAuth; nothing is sent that this server would have to refuse."""
    name = stage.make()

    with pytest.raises(Exception, match="does not support direct Data Plane access"):
        WorkspaceClient().serving_endpoints_data_plane.query(name, messages=[])


def test_no_call_of_secrets_is_left_out() -> None:
    assert unnamed(SecretsAPI, "secrets.", sys.modules[__name__]) == set()
