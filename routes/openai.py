"""OpenAI's list of models: the endpoints."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends

from llmops.endpoints.permissions import Level
from llmops.errors import NotFound
from routes.serving_endpoints import Endpoints, endpoints

router = APIRouter(tags=["OpenAI"])
Of = Annotated[Endpoints, Depends(endpoints)]


@router.get("/v1/models", summary="List models")
@router.get("/serving-endpoints/models", include_in_schema=False)
async def list_models(of: Of) -> dict[str, Any]:
    """Every endpoint that the caller may query, as OpenAI's client reads a model."""
    return {"object": "list", "data": [_model(endpoint) for endpoint in of.list(Level.CAN_QUERY)]}


@router.get("/v1/models/{name}", summary="Get a model")
async def get_model(of: Of, name: str) -> dict[str, Any]:
    """One endpoint as OpenAI's client reads a model."""
    of.refuse_query(name)
    found = next((endpoint for endpoint in of.list(Level.CAN_QUERY) if endpoint["name"] == name), None)
    if found is None:
        raise NotFound(f"model '{name}' does not exist")
    return _model(found)


def _model(endpoint: dict[str, Any]) -> dict[str, Any]:
    created = endpoint["creation_timestamp"] // 1000
    return {"id": endpoint["name"], "object": "model", "created": created, "owned_by": "llmops"}
