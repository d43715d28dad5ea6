"""Foreign files for the tests of importers, and what is asked of what they give."""

from pathlib import Path
from typing import Any

import yaml

from llmops.endpoints.difference import plain
from llmops.endpoints.importers.foreign import Harvest
from llmops.endpoints.importers.formats import harvest
from llmops.endpoints.spec import EndpointSpec

CANARY = "sk-canary-1234567890"


def made(tmp_path: Path, document: Any, format_: str | None = None) -> Harvest:
    """What an import makes of a document, or of a text."""
    path = tmp_path / "foreign.yaml"
    path.write_text(document if isinstance(document, str) else yaml.safe_dump(document), "utf-8")
    return harvest(path, format_)


def left(found: Harvest) -> dict[str, str]:
    """What was left behind, by its place."""
    return {one.place: one.reason for one in found.left}


def gateway(provider: str, config: dict[str, Any], name: str = "m", **more: Any) -> dict[str, Any]:
    """A config of MLflow's gateway with one endpoint, ``e``."""
    model = {"provider": provider, "name": name, "config": config}
    return {"endpoints": [{"name": "e", "endpoint_type": "llm/v1/chat", "model": model, **more}]}


def proxy(*entries: tuple[str, dict[str, Any]], **sections: Any) -> dict[str, Any]:
    """A config of litellm's proxy with these models."""
    return {"model_list": [{"model_name": name, "litellm_params": params} for name, params in entries], **sections}


def entity_of(found: Harvest) -> dict[str, Any]:
    """The one served entity of the one endpoint."""
    (spec,) = found.specs
    (entity,) = plain(spec)["config"]["served_entities"]
    return dict(entity)


def key_of(spec: EndpointSpec) -> str:
    """The reference in the place of an OpenAI key."""
    model = spec.config.served_entities[0].external_model
    assert model is not None
    return model.config.references()["openai_api_key"]
