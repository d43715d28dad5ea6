"""What clients ask a Databricks workspace around its endpoints: who they are, and connections it does not have here.

Source: ../shared/reference/databricks_contract.md 1.1, 1.3
"""

import hashlib
from typing import Annotated, Any

from fastapi import APIRouter, Body, Request, Response

from llmops.errors import BadRequest

router = APIRouter(prefix="/api/2.0", tags=["Workspace"])

#: There are no workspaces; databricks-sdk reads the number of this one from a header.
WORKSPACE_ID = 0


@router.get("/preview/scim/v2/Me", summary="Who the caller is")
async def me(request: Request, response: Response) -> dict[str, Any]:
    """The caller as SCIM tells a user; without tokens everybody is ``anonymous``."""
    user = str(request.scope.get("principal") or "anonymous")
    response.headers["X-Databricks-Org-Id"] = str(WORKSPACE_ID)
    return {
        "schemas": ["urn:ietf:params:scim:schemas:core:2.0:User"],
        "id": str(int(hashlib.sha256(user.encode()).hexdigest()[:13], 16)),
        "userName": user,
        "active": True,
    }


@router.post("/external-function", summary="Call through a connection: refused")
async def external_function(asked: Annotated[dict[str, Any], Body()]) -> None:
    """Refused: it would call what a Unity Catalog connection names, and there are no connections here."""
    named = str(asked.get("connection_name") or "")[:63]
    raise BadRequest(f"connection '{named}' does not exist: this server keeps no Unity Catalog connections")
