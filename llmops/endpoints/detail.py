"""What a client is told about an endpoint: the Databricks answer, made of the stored document and its live state.

Source: ../shared/reference/databricks_contract.md 1.6, 1.7, 2
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmops.endpoints.store import StoredEndpoint
from llmops.protocol.task import Task

READY = "DEPLOYMENT_READY"
CREATING = "DEPLOYMENT_CREATING"
FAILED = "DEPLOYMENT_FAILED"


@dataclass(frozen=True, slots=True)
class EntityState:
    """Whether a served entity can answer.

    Attributes:
        deployment: DEPLOYMENT_READY, DEPLOYMENT_CREATING or DEPLOYMENT_FAILED.
        message: What it waits for or what to do; empty when it is ready.
    """

    deployment: str
    message: str = ""


def detail(endpoint: StoredEndpoint, states: Mapping[str, EntityState]) -> dict[str, Any]:
    """The answer of create, get and update.

    Args:
        states: Of each served entity, by its name; empty where the document has a problem.
    """
    document = dict(endpoint.document)
    config = dict(document.pop("config", None) or {})
    entities = [_entity(entity, states, endpoint) for entity in config.get("served_entities", [])]
    return {
        **document,
        "id": endpoint.id,
        "creator": endpoint.creator,
        "creation_timestamp": endpoint.created_ms,
        "last_updated_timestamp": endpoint.updated_ms,
        "state": _state(endpoint, list(states.values())),
        "config": {
            **config,
            "served_entities": entities,
            "traffic_config": {"routes": _routes(config)},
            "config_version": endpoint.config_version,
        },
        "task": _task(config),
        "endpoint_type": "EXTERNAL_MODEL" if any("external_model" in e for e in entities) else "FOUNDATION_MODEL_API",
        "permission_level": "CAN_MANAGE",
        "llmops": {key: value for key, value in (("source", endpoint.source), ("problem", endpoint.problem)) if value},
    }


def summary(endpoint: StoredEndpoint, states: Mapping[str, EntityState]) -> dict[str, Any]:
    """One item of the list."""
    whole = detail(endpoint, states)
    keys = ("name", "entity_name", "entity_version", "external_model", "foundation_model", "state")
    entities = [{key: e[key] for key in keys if key in e} for e in whole["config"]["served_entities"]]
    return {**whole, "config": {"served_entities": entities}}


def _state(endpoint: StoredEndpoint, states: Sequence[EntityState]) -> dict[str, str]:
    deployments = {state.deployment for state in states}
    ready = endpoint.problem is None and deployments == {READY}
    return {
        "ready": "READY" if ready else "NOT_READY",
        "config_update": "IN_PROGRESS" if CREATING in deployments else "NOT_UPDATING",
        "suspend": "NOT_SUSPENDED",
    }


def _entity(entity: Mapping[str, Any], states: Mapping[str, EntityState], endpoint: StoredEndpoint) -> dict[str, Any]:
    state = states.get(entity["name"], EntityState(FAILED, endpoint.problem or ""))
    return {
        **entity,
        "creator": endpoint.creator,
        "creation_timestamp": endpoint.created_ms,
        "state": {"deployment": state.deployment, "deployment_state_message": state.message},
    }


def _routes(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The routes under both of their names, as clients of either age read them."""
    given = (config.get("traffic_config") or {}).get("routes")
    if given is None:
        names = [entity["name"] for entity in config.get("served_entities", [])]
        given = [{"served_entity_name": name, "traffic_percentage": 100} for name in names]
    return [{**route, "served_model_name": route["served_entity_name"]} for route in given]


def _task(config: Mapping[str, Any]) -> str | None:
    for entity in config.get("served_entities", []):
        model = entity.get("external_model") or entity.get("llmops") or {}
        return str(model.get("task") or Task.CHAT)
    return None
