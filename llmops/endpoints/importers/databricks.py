"""Endpoints of Databricks' JSON: the answer of a get, a list of them, or the body of a create.

It is our own document, with what the server adds and what has no meaning here.

Source: ../shared/reference/databricks_contract.md 1.4 - 1.7, 3, 7
"""

from collections.abc import Mapping
from typing import Any

from llmops.endpoints.document import Document as Model
from llmops.endpoints.importers.foreign import Document, Harvest, Part
from llmops.endpoints.problems import model_in
from llmops.endpoints.secrets import REFERENCE
from llmops.endpoints.spec import EndpointConfig, EndpointSpec

#: What a server tells of an endpoint, and of a served entity: facts, nothing that anybody wrote.
_FACTS = """
    id creator creation_timestamp last_updated_timestamp state permission_level task endpoint_type endpoint_url
    data_plane_info creator_display_name creator_kind resource_credential_strategy config_version foundation_model
    start_time source problem
"""
_UNENFORCED = ("guardrails",)
#: Other names of fields, for where the first one is not there: what is to be served, and deprecated ones.
_OTHERWISE = {
    "config": "pending_config",
    "served_entities": "served_models",
    "served_entity_name": "served_model_name",
    "entity_name": "model_name",
    "entity_version": "model_version",
}
_PLAINTEXT = "_plaintext"


def harvest(document: Mapping[str, Any]) -> Harvest:
    """Make endpoints of one document, or of a list of them."""
    found = Harvest()
    many = isinstance(document.get("endpoints"), list)
    whole = Part(document, "", found)
    for part in whole.parts("endpoints") if many else [whole]:
        _keep(part)
    if many:
        whole.close()
    return found


def _keep(part: Part) -> None:
    name = part.text("name")
    if name is None:
        part.harvest.leave(part.place or "name", "is missing; an endpoint has a name")
        return
    if "config" in part and "pending_config" in part:
        part.harvest.leave(part.at("pending_config"), "is not served yet; the endpoint gets what serves, its config")
    part.harvest.keep({**_taken(part, EndpointSpec), "name": name}, part.place or name)


def _taken(part: Part, model: type[Model]) -> Document:
    """What a model knows of a mapping; the rest is listed, keys become references."""
    part.skip(*_FACTS.split())
    if model is EndpointConfig:
        part.skip("name")  # Databricks' SDK repeats the endpoint's name here.
    for key in _UNENFORCED:
        if part.whole(key):
            part.harvest.leave(part.at(key), "is not enforced by this version")
    withheld = {*_UNENFORCED, *_with_keys(part)}
    made: Document = {}
    for key, field in model.model_fields.items():
        inner = model_in(field.annotation)
        for name in (key, _OTHERWISE.get(key, key)):
            if name in part and key not in made and key not in withheld:
                made[key] = part.whole(name) if inner is None else _inside(part, name, inner)
            part.skip(name)
        secret = part.secret(key + _PLAINTEXT, _scope(part))
        if secret is not None:
            made[key] = secret
    part.close()
    return made


def _with_keys(part: Part) -> list[str]:
    """The field of variables of which one is no reference, where there is one: it may be a key."""
    variables = part.whole("environment_vars")
    values = variables.values() if isinstance(variables, dict) else ()
    if all(isinstance(value, str) and REFERENCE.fullmatch(value) for value in values):
        return []
    part.harvest.leave(part.at("environment_vars"), "has no effect here, and a value that is no reference may be a key")
    return ["environment_vars"]


def _inside(part: Part, key: str, model: type[Model]) -> Any:
    value = part.whole(key)
    if isinstance(value, list):
        return [_taken(item, model) for item in part.parts(key)]
    return _taken(part.part(key), model) if isinstance(value, dict) else value


def _scope(part: Part) -> str:
    """What a key is named by: the config it stands in, as ``openai`` of ``openai_config``."""
    words = [word for word in part.place.split(".") if word.endswith("_config")]
    return words[-1].removesuffix("_config") if words else "databricks"
