"""What MLflow's own client of an ``http://`` target asks for; its invocations are a door of `routes.invocations`.

Source: ../shared/reference/databricks_contract.md 11; mlflow/deployments/server/config.py (the shape of an endpoint)
"""

from typing import Annotated, Any

from fastapi import APIRouter, Depends

from llmops.endpoints.detail import told_config
from llmops.errors import EndpointNotReady
from routes.serving_endpoints import Endpoints, endpoints

router = APIRouter(prefix="/api/2.0/endpoints", tags=["MLflow gateway"])
Of = Annotated[Endpoints, Depends(endpoints)]


@router.get("", summary="List endpoints, as MLflow's gateway does")
@router.get("/", include_in_schema=False)
async def list_endpoints(of: Of) -> dict[str, Any]:
    """Every endpoint that has a task; MLflow's client has no word for one whose document cannot be served."""
    return {"endpoints": [_told(endpoint) for endpoint in of.list() if endpoint["task"] is not None]}


@router.get("/{name}", summary="Get an endpoint, as MLflow's gateway does")
async def get_endpoint(of: Of, name: str) -> dict[str, Any]:
    """One endpoint: its task, its first model, and where it is invoked."""
    endpoint = of.get(name)
    if endpoint["task"] is None:
        raise EndpointNotReady(f"endpoint '{name}' is not ready: {endpoint['llmops'].get('problem')}")
    return _told(endpoint)


def _told(endpoint: dict[str, Any]) -> dict[str, Any]:
    first = told_config(endpoint)["served_entities"][0]
    external = first.get("external_model")
    name, provider = (external["name"], external["provider"]) if external else (first["entity_name"], "llmops")
    return {
        "name": endpoint["name"],
        "endpoint_type": endpoint["task"],
        "model": {"name": name, "provider": provider},
        "endpoint_url": f"/endpoints/{endpoint['name']}/invocations",
        # MLflow's client insists on the key.
        "limit": None,
    }
