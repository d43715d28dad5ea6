"""What a client is told about an endpoint: the Databricks answer, made of the stored document and its live state.

Source: ../shared/reference/databricks_contract.md 1.6, 1.7, 2
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmops.endpoints.ai_gateway import InferenceTableConfig
from llmops.endpoints.foundation_model import PREFIX
from llmops.endpoints.spec import RENAMED
from llmops.endpoints.store import StoredEndpoint
from llmops.protocol.task import Task

_OLD_NAMES = {new: old for old, new in RENAMED.items()}
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


@dataclass(frozen=True, slots=True)
class Pending:
    """The newest config of an endpoint, while it is not ready.

    Attributes:
        endpoint: As the store keeps it.
        states: Of the config's served entities, by name.
        failed: Why it is not ready and may never be; None while nothing went wrong.
        first: Whether no config of the endpoint has been ready yet: then it is told alone, no other serves.
    """

    endpoint: StoredEndpoint
    states: Mapping[str, EntityState]
    failed: str | None
    first: bool

    @property
    def config_update(self) -> str:
        """IN_PROGRESS or UPDATE_FAILED."""
        return "IN_PROGRESS" if self.failed is None else "UPDATE_FAILED"


def served_entity_id(endpoint_id: str, name: str) -> str:
    """The id of a served entity, 32 hex digits: the same as long as endpoint and entity keep their names."""
    return hashlib.sha256(f"{endpoint_id}/{name}".encode()).hexdigest()[:32]


def detail(
    endpoint: StoredEndpoint, states: Mapping[str, EntityState], pending: Pending | None = None
) -> dict[str, Any]:
    """The answer of create, get and update.

    Args:
        endpoint: With the config that serves.
        states: Of each served entity, by its name; empty where the document has a problem.
        pending: The newest config, while it is not ready.
    """
    document = dict(endpoint.document)
    config = document.pop("config", None) or {}
    entities = config.get("served_entities", [])
    told = (("source", endpoint.source), ("problem", endpoint.problem))
    return {
        **document,
        **_gateway(endpoint),
        "id": endpoint.id,
        "creator": endpoint.creator,
        "creation_timestamp": endpoint.created_ms,
        "last_updated_timestamp": endpoint.updated_ms,
        "state": _state(endpoint, list(states.values()), pending),
        **_configs(endpoint, states, pending),
        "task": _task(config),
        "endpoint_type": "EXTERNAL_MODEL" if any("external_model" in e for e in entities) else "FOUNDATION_MODEL_API",
        "llmops": {**document.get("llmops", {}), **{key: value for key, value in told if value}},
    }


def summary(
    endpoint: StoredEndpoint, states: Mapping[str, EntityState], pending: Pending | None = None
) -> dict[str, Any]:
    """One item of the list; see `detail`. The config that waits is in it only where no other serves."""
    whole = detail(endpoint, states, pending)
    place = "config" if "config" in whole else "pending_config"
    keys = ("name", "entity_name", "entity_version", "external_model", "foundation_model", "state")
    config = whole[place]
    entities = [{key: e[key] for key in keys if key in e} for e in config["served_entities"]]
    old_keys = ("name", "model_name", "model_version")
    models = [{key: model[key] for key in old_keys if key in model} for model in config["served_models"]]
    whole.pop("pending_config", None)
    return {**whole, place: {"served_entities": entities, "served_models": models}}


def told_config(answer: Mapping[str, Any]) -> dict[str, Any]:
    """The config in what `detail` or `summary` made: the one that serves, else the first one, which waits."""
    found: dict[str, Any] = answer.get("config") or answer["pending_config"]
    return found


def _gateway(endpoint: StoredEndpoint) -> dict[str, Any]:
    """The block of policies with the name of the payload table, which is the endpoint's where none is given."""
    block = endpoint.document.get("ai_gateway") or {}
    table = block.get("inference_table_config")
    if not table:
        return {}
    return {"ai_gateway": {**block, "inference_table_config": {"table_name_prefix": endpoint.name, **table}}}


def _state(endpoint: StoredEndpoint, states: Sequence[EntityState], pending: Pending | None) -> dict[str, str]:
    deployments = {state.deployment for state in states}
    ready = endpoint.problem is None and deployments == {READY}
    update = "IN_PROGRESS" if CREATING in deployments else "NOT_UPDATING"
    return {
        "ready": "READY" if ready else "NOT_READY",
        "config_update": update if pending is None else pending.config_update,
        "suspend": "NOT_SUSPENDED",
    }


def _configs(
    endpoint: StoredEndpoint, states: Mapping[str, EntityState], pending: Pending | None
) -> dict[str, dict[str, Any]]:
    """The config that serves, if one does, and the one that waits, if one does."""
    serves = {} if pending is not None and pending.first else {"config": _config(endpoint, states)}
    return serves if pending is None else {**serves, "pending_config": _pending(pending)}


def _config(endpoint: StoredEndpoint, states: Mapping[str, EntityState]) -> dict[str, Any]:
    config = endpoint.document.get("config") or {}
    entities = [_entity(entity, states, endpoint) for entity in config.get("served_entities", [])]
    return {
        **config,
        **_capture(config.get("auto_capture_config"), endpoint.name),
        "served_entities": entities,
        "served_models": [_model(entity) for entity in entities],
        "traffic_config": {"routes": _routes(config)},
        "config_version": endpoint.config_version,
    }


def _capture(capture: Mapping[str, Any] | None, name: str) -> dict[str, Any]:
    """The old place of the payload table with the table's name, where it is written; how it is, the shipper knows."""
    if capture is None:
        return {}
    table = InferenceTableConfig.model_construct(**capture).table(name)
    state = {"state": {"payload_table": {"name": table}}} if table is not None else {}
    return {"auto_capture_config": {**capture, **state}}


def _model(entity: Mapping[str, Any]) -> dict[str, Any]:
    """A served entity under its old names, which have none for a vendor's model."""
    left_out = ("external_model", "foundation_model")
    return {_OLD_NAMES.get(key, key): value for key, value in entity.items() if key not in left_out}


def _pending(pending: Pending) -> dict[str, Any]:
    """The config that is to serve, with the reason at the entity where it does not get on."""
    config = _config(pending.endpoint, pending.states)
    if pending.failed is not None:
        for entity in config["served_entities"]:
            if entity["state"]["deployment"] == CREATING:  # It is tried again and again, and is starting just now.
                entity["state"] = {"deployment": FAILED, "deployment_state_message": pending.failed}
        config["served_models"] = [_model(entity) for entity in config["served_entities"]]
    return {**config, "start_time": pending.endpoint.updated_ms}


def _entity(entity: Mapping[str, Any], states: Mapping[str, EntityState], endpoint: StoredEndpoint) -> dict[str, Any]:
    state = states.get(entity["name"], EntityState(FAILED, endpoint.problem or ""))
    return {
        **entity,
        **_foundation(entity.get("entity_name")),
        "id": served_entity_id(endpoint.id, entity["name"]),
        "creator": endpoint.creator,
        "creation_timestamp": endpoint.created_ms,
        "state": {"deployment": state.deployment, "deployment_state_message": state.message},
    }


def _foundation(entity_name: str | None) -> dict[str, Any]:
    """What is told of a model that is no vendor's."""
    if entity_name is None:
        return {}
    return {"foundation_model": {"name": entity_name, "display_name": entity_name.removeprefix(PREFIX)}}


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
