"""What clients ask a workspace around its endpoints."""

import pytest
from databricks.sdk import WorkspaceClient
from databricks.sdk.errors import BadRequest
from databricks.sdk.service.serving import ExternalFunctionRequestHttpMethod

from tests.conftest import NewServer
from tests.server import Server, demo


def test_the_sdk_learns_who_it_is(server: Server, new_server: NewServer) -> None:
    locked = new_server(demo(), environment={"LLMOPS_TOKEN": "sesame"})
    open_to_all = WorkspaceClient(host=server.url, token="anything")
    admin = WorkspaceClient(host=locked.url, token="sesame").current_user.me()

    assert open_to_all.current_user.me().user_name == "anonymous"
    assert (admin.user_name, admin.active) == ("admin", True)
    assert int(admin.id or "") > 0
    assert open_to_all.get_workspace_id() == 0


def test_a_connection_is_refused_once_and_clearly(server: Server) -> None:
    workspace = WorkspaceClient(host=server.url, token="anything")

    with pytest.raises(BadRequest, match="connection 'github' does not exist: this server keeps no Unity Catalog"):
        workspace.serving_endpoints.http_request("github", ExternalFunctionRequestHttpMethod.GET, "/repos")
