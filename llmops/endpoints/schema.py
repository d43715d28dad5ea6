"""The JSON Schema of an endpoint file, made of the models, so that editors complete and check what people write.

It says what a schema can say: keys, types, ranges, which config goes with which provider. The rest (percentages that
sum to 100, names that must match) `llmops validate` says. Deprecated names (``served_models``) are read from files and
not offered here.
"""

import re
from collections.abc import Iterator
from typing import Any

import orjson

from llmops.endpoints.document import Document
from llmops.endpoints.external_model import ExternalModel
from llmops.endpoints.foundation_model import PREFIX
from llmops.endpoints.problems import model_in
from llmops.endpoints.served_entity import CONCURRENCY, NOT_EXTERNAL
from llmops.endpoints.spec import EndpointSpec

SCHEMA_FILE = "endpoint.schema.json"

#: An attribute of a docstring: its name, and its text until the next one.
_ATTRIBUTE = re.compile(r"^ {4}(\w+): (.+?)(?=^ {4}\w+: |\Z)", re.MULTILINE | re.DOTALL)


def schema() -> dict[str, Any]:
    """The schema of one endpoint file, as JSON Schema 2020-12."""
    made = EndpointSpec.model_json_schema()
    parts: dict[str, Any] = {**made.pop("$defs"), EndpointSpec.__name__: made}
    for model in _models(EndpointSpec):
        _describe(parts[model.__name__], model)
    for name in ("EndpointSpec", "ServedEntity"):
        parts[name]["properties"]["name"]["pattern"] = "^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$"
    parts["ExternalModel"]["allOf"] = _provider_rules()
    parts["ServedEntity"] |= _entity_rules()
    parts["AiGateway"]["properties"]["guardrails"]["anyOf"][0]["maxProperties"] = 0
    parts["RateLimit"] |= _limit_rules()
    whole = parts.pop(EndpointSpec.__name__)
    told: dict[str, Any] = _tidy({**whole, "$defs": dict(sorted(parts.items()))})
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "llmops endpoint", **told}


def text() -> str:
    """The schema as the file that is shipped."""
    return orjson.dumps(schema(), option=orjson.OPT_INDENT_2).decode() + "\n"


def _provider_rules() -> list[dict[str, Any]]:
    """For each provider: the config it needs, and only that."""
    rules = []
    for provider, wanted in ExternalModel.CONFIGS.items():
        others = {key: {"type": "null"} for key in ExternalModel.CONFIGS.values() if key != wanted}
        needed = {} if provider == "custom" else {"required": [wanted]}
        when = {"properties": {"provider": {"const": provider}}, "required": ["provider"]}
        rules.append({"if": when, "then": {**needed, "properties": others}})
    return rules


def _entity_rules() -> dict[str, Any]:
    """A served entity is one of two kinds, with what goes with its kind, and has one size."""
    nothing = {"type": "null"}
    foundation = {"entity_name": {"pattern": f"^{re.escape(PREFIX)}"}, "llmops": {"required": ["engine"]}}
    return {
        "oneOf": [{"required": ["external_model"]}, {"required": ["entity_name"]}],
        "if": {"required": ["entity_name"]},
        "then": {"required": ["llmops"], "properties": foundation},
        "else": {"properties": dict.fromkeys(NOT_EXTERNAL, nothing)},
        "anyOf": [{"properties": {"workload_size": nothing}}, {"properties": dict.fromkeys(CONCURRENCY, nothing)}],
    }


def _limit_rules() -> dict[str, Any]:
    """A limit counts one of two things, is for whom its key says, and only a group's must name it."""
    nothing = {"type": "null"}
    kinds = [
        {"required": [unit], "properties": {unit: {"type": "integer"}, other: nothing}}
        for unit, other in (("calls", "tokens"), ("tokens", "calls"))
    ]
    # Alternatives, not conditions: programs that read OpenAPI know few of those.
    whom = [
        {"properties": {"key": {"const": "endpoint"}, "principal": nothing}},
        {"properties": {"key": {"enum": ["user", "service_principal"]}}, "required": ["key"]},
        {
            "properties": {"key": {"const": "user_group"}, "principal": {"type": "string"}},
            "required": ["key", "principal"],
        },
    ]
    return {"oneOf": kinds, "anyOf": whom}


def _models(model: type[Document], seen: frozenset[type[Document]] = frozenset()) -> Iterator[type[Document]]:
    yield model
    for field in model.model_fields.values():
        inner = model_in(field.annotation)
        if inner is not None and inner not in seen:
            yield from _models(inner, seen | {model})


def _describe(part: dict[str, Any], model: type[Document]) -> None:
    """Put what the docstrings say where editors show it, and what a key's reference looks like."""
    described, _, attributes = (model.__doc__ or "").partition("Attributes:\n")
    part["description"] = " ".join(described.split())
    inner = "\n".join(line[4:] for line in attributes.splitlines())
    for name, told in _ATTRIBUTE.findall(inner):
        if name in part["properties"]:
            part["properties"][name]["description"] = " ".join(told.split())


def _tidy(part: Any) -> Any:
    """Without what an editor would only repeat: titles made of names, defaults of nothing."""
    if isinstance(part, list):
        return [_tidy(item) for item in part]
    if not isinstance(part, dict):
        return part
    dull = {key for key in ("title", "default") if key in part and not isinstance(part[key], dict | bool | int | float)}
    return {key: _tidy(item) for key, item in part.items() if key not in dull}
