"""Endpoints of the YAML of MLflow's AI gateway (`mlflow gateway start --config-path`).

Source: mlflow/gateway/config.py (3.17.2): GatewayConfig, EndpointConfig, TrafficRouteConfig
"""

from collections.abc import Mapping
from typing import Any

from llmops.endpoints.importers import entity
from llmops.endpoints.importers.foreign import Document, Harvest, Part, config

#: By provider: what its config calls our words; ``api_key`` and ``api_base`` where nothing else is said.
_KEYS: Mapping[str, Mapping[str, str]] = {
    "openai": {
        "api_key": "openai_api_key",
        "api_base": "openai_api_base",
        "api_version": "openai_api_version",
        "deployment": "openai_deployment_name",
        "organization": "openai_organization",
    },
    "anthropic": {"api_key": "anthropic_api_key", "api_base": "anthropic_api_base"},
    "cohere": {"api_key": "cohere_api_key"},
    "ai21labs": {"api_key": "ai21labs_api_key"},
    "palm": {"api_key": "palm_api_key"},
    "gemini": {"api_key": "gemini_api_key"},
    "mistral": {"api_key": "mistral_api_key"},
    "togetherai": {"api_key": "togetherai_api_key"},
    "databricks": {"api_key": "token", "api_base": "host"},
    "databricks-model-serving": {
        "api_key": "databricks_api_token",
        "api_base": "databricks_workspace_url",
    },
}
_HINTS: Mapping[str, str] = {
    "huggingface-text-generation-inference": "; a server that answers /v1/chat/completions is engine openai_compatible",
    "mlflow-model-serving": "; registered models are not served by this version",
}


def harvest(document: Mapping[str, Any]) -> Harvest:
    """Make endpoints of a gateway's config, and of its traffic routes."""
    found = Harvest()
    whole = Part(document, "", found)
    models: dict[str, Document] = {}
    # Before 2.9 the list of endpoints was called routes, and their type route_type.
    routes = whole.parts("routes")
    for part in [*whole.parts("endpoints"), *(route for route in routes if "model" in route)]:
        name, served = _endpoint(part)
        if served is not None:
            models[name] = served
            found.keep({"name": name, "config": config([served], [1.0], found, part.place)}, part.place)
    for route in routes:
        if "model" not in route:
            _split(route, models)
    whole.close()
    return found


def _endpoint(part: Part) -> tuple[str, Document | None]:
    name = part.text("name") or "endpoint"
    task = part.text("endpoint_type") or part.text("route_type") or "llm/v1/chat"
    model = part.part("model")
    provider = (model.text("provider") or "").lower()
    values = model.part("config")
    served = _served(name, task, provider, model, values)
    if served is not None:
        part.skip("route_url")
        values.close()
        model.close()
        if "limit" in part:
            part.skip("limit")
            part.harvest.leave(
                part.at("limit"),
                "counts by a caller's address; ai_gateway.rate_limits count by endpoint, user or group",
            )
        part.close()
    return name, served


def _served(endpoint: str, task: str, provider: str, model: Part, values: Part) -> Document | None:
    kind = provider.replace("_", "-") if provider != "vertex_ai" else provider
    keys: Mapping[str, str] = _KEYS.get(kind, {})
    if kind in ("openai", "azure", "azuread"):
        keys = _KEYS["openai"]
        kind = {"azure": "azure", "azuread": "azuread"}.get((values.text("openai_api_type") or kind).lower(), "openai")
    if kind in ("bedrock", "amazon-bedrock"):
        values = values.part("aws_config")
    make = entity.PROVIDERS.get(kind)
    if make is None:
        reason = "Entra authentication is not served" if kind == "azuread" else f"provider '{provider}' is not served"
        model.harvest.leave(model.place, f"{reason}{_HINTS.get(kind, '')}; endpoint '{endpoint}' is left out")
        return None
    name = model.text("name")
    if name is None:
        model.harvest.leave(model.place, f"names no model; endpoint '{endpoint}' is left out")
        return None
    served = make(entity.Model(name, task, values, keys))
    if values.place.endswith("aws_config"):
        values.close()
    return served


def _split(route: Part, models: Mapping[str, Document]) -> None:
    """An endpoint whose traffic goes to several others: theirs are its served entities."""
    name, entities, shares = route.text("name") or "route", [], []
    for destination in route.parts("destinations"):
        wanted = destination.text("name") or ""
        if wanted not in models:
            route.harvest.leave(destination.place, f"goes to '{wanted}', which was not carried over")
            return
        entities.append({**models[wanted], "name": wanted})
        shares.append(destination.number("traffic_percentage") or 0.0)
        destination.skip("traffic_percentage")
        destination.close()
    route.skip("task_type", "routing_strategy")
    route.close()
    if entities:
        route.harvest.keep({"name": name, "config": config(entities, shares, route.harvest, route.place)}, route.place)
