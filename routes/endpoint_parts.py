"""Routes that change one part of an endpoint: the rate limits by their old name, and what means little on one's own
machine, and those of provisioned throughput: accepted, kept and told back, because stock clients call them.

Source: ../shared/reference/databricks_contract.md 1.1
"""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request

from llmops.errors import InvalidParameter
from routes.serving_endpoints import Endpoints, Object, endpoints

router = APIRouter(prefix="/api/2.0/serving-endpoints", tags=["Serving endpoints"])
Of = Annotated[Endpoints, Depends(endpoints)]


@router.put("/{name}/rate-limits", summary="Replace the rate limits (deprecated)")
async def update_rate_limits(of: Of, name: str, asked: Object) -> dict[str, Any]:
    """Replace the limits of the deprecated key; those of `ai_gateway` stay, and hold besides."""
    limits = asked.get("rate_limits") or []
    if not isinstance(limits, list):
        raise InvalidParameter("'rate_limits' must be a list")
    whole = await of.update(name, {"rate_limits": limits})
    return {"rate_limits": whole.get("rate_limits") or []}


@router.patch("/{name}/notifications", summary="Change the notifications")
async def update_notifications(of: Of, name: str, asked: Object) -> dict[str, Any]:
    """Keep who should get an e-mail; this server sends none."""
    wanted = asked.get("email_notifications")
    whole = await of.update(name, {"email_notifications": wanted}) if wanted is not None else of.get(name)
    return {"name": name, "email_notifications": whole.get("email_notifications") or {}}


@router.patch("/{name}/telemetry-config", summary="Change the telemetry config")
async def update_telemetry(of: Of, name: str, asked: Object) -> dict[str, Any]:
    """Keep the telemetry config, or remove it where none is sent; it has no effect here."""
    return await of.update(name, {"telemetry_config": asked.get("telemetry_config")})


@router.post("/pt", summary="Create an endpoint with provisioned throughput")
async def create_provisioned(of: Of, document: Object, request: Request) -> dict[str, Any]:
    """Create an endpoint; its model units are kept and have no effect, an engine here has the whole machine."""
    return await of.create(document, request.scope.get("principal"))


@router.put("/pt/{name}/config", summary="Update the config of an endpoint with provisioned throughput")
async def update_provisioned(of: Of, name: str, asked: Object) -> dict[str, Any]:
    """Change served entities and their traffic; the config is one level deeper than elsewhere."""
    if not isinstance(asked.get("config"), dict):
        raise InvalidParameter("'config' must be an object")
    return await of.update_config(name, asked["config"])
