"""What the bodies of the management routes hold, and what some of them answer, for the OpenAPI document.

The routes take any JSON object and check it themselves, with messages that say what to do; nothing here is asked at a
request. Endpoint documents are described by the schema of their models, but for one thing: over REST a key that is not
known is left out, not refused.

Source: ../shared/reference/databricks_contract.md 1, 8
"""

from collections.abc import Mapping, Sequence
from typing import Any

from llmops.endpoints.access_tokens import LONGEST_LIFE_S, MOST_GROUPS, MOST_NAME_CHARS
from llmops.endpoints.external_model import PLAINTEXT, ProviderConfig, secret_fields
from llmops.endpoints.permissions import MOST_ENTRIES, Level
from llmops.endpoints.rate_limits import MOST_LIMITS
from llmops.endpoints.schema import schema
from llmops.endpoints.secret_store import MOST_PRINCIPAL_CHARS, PERMISSIONS, USERS
from llmops.endpoints.secrets import KEY_NAME, SCOPE_NAME

Schema = dict[str, Any]

#: The component that is a whole endpoint document.
ENDPOINT = "Endpoint"
#: The same where the path names it.
_UNNAMED = "EndpointReplacement"
#: A config of which any part may be left out.
_CONFIG_UPDATE = "EndpointConfigUpdate"
#: No stock client sends this block, so a key in it that is not known is a mistake, and refused.
_STRICT = "EndpointExtras"

NAME: Schema = {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$"}
ENDPOINT_ID: Schema = {"type": "string", "pattern": "^[0-9a-f]{32}$"}
_TEXT: Schema = {"type": "string", "minLength": 1}
_SCOPE: Schema = {"type": "string", "pattern": f"^{SCOPE_NAME.pattern}$"}
_KEY: Schema = {"type": "string", "pattern": f"^{KEY_NAME.pattern}$"}
_PRINCIPAL: Schema = {"type": "string", "minLength": 1, "maxLength": MOST_PRINCIPAL_CHARS}
_WHO: Schema = {"type": "string", "minLength": 1, "maxLength": MOST_NAME_CHARS}
_OBJECT: Schema = {"type": ["object", "null"], "additionalProperties": True}
_LEVELS = [level.name for level in Level if level is not Level.NONE]


def _part(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(required: Mapping[str, Schema], optional: Mapping[str, Schema] | None = None) -> Schema:
    properties = {**required, **(optional or {})}
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": True}


def _list(items: Schema, **limits: int) -> Schema:
    return {"type": "array", "items": items, **limits}


_GRANT = {
    **_object(
        {"permission_level": {"enum": _LEVELS}},
        dict.fromkeys(("user_name", "group_name", "service_principal_name"), _WHO),
    ),
    "oneOf": [{"required": [field]} for field in ("user_name", "group_name", "service_principal_name")],
}
_GRANTS = _object({}, {"access_control_list": _list(_GRANT, maxItems=MOST_ENTRIES)})
_FEEDBACK = {
    **_object(
        {
            "interaction_id": {
                "type": "string",
                "pattern": "^(tr-)?[0-9a-f]{32}$",
                "description": "The answer's x-request-id, or its trace's id",
            },
            "value": {"type": ["boolean", "number", "string"], "minLength": 1, "maxLength": 8000},
        },
        {
            "name": {"type": ["string", "null"], "description": "What is judged"},
            "rationale": {"type": ["string", "null"], "description": "Why"},
            "user": {"type": ["string", "null"], "description": "Whose opinion, where the token does not say"},
        },
    ),
    "additionalProperties": False,
}
_TOKEN = _object(
    {},
    {
        "user": {**_WHO, "description": "Whose token; default: the caller's own"},
        "groups": _list(_WHO, maxItems=MOST_GROUPS),
        "admin": {"type": "boolean"},
        "comment": {"type": "string", "maxLength": MOST_NAME_CHARS},
        "lifetime_seconds": {"type": "integer", "minimum": 1, "maximum": LONGEST_LIFE_S},
    },
)
_SECRET: Schema = {
    **_object({"scope": _SCOPE, "key": _KEY}),
    "oneOf": [
        _object({"string_value": _TEXT}),
        _object({"bytes_value": {"type": "string", "format": "byte", "minLength": 4}}),
    ],
}
_LIMITS = _object({}, {"rate_limits": _list(_part("CallLimit"), maxItems=MOST_LIMITS)})
_TAGS = _object({}, {"add_tags": _list(_part("EndpointTag")), "delete_tags": _list({"type": "string"})})
_CALL = {name: {"type": ["string", "null"]} for name in ("headers", "json", "params")}

_ENDPOINTS, _SECRETS = "/api/2.0/serving-endpoints", "/api/2.0/secrets"
_PERMISSIONS = "/api/2.0/permissions/serving-endpoints/{endpoint_id}"

#: By method and path.
BODIES: Mapping[tuple[str, str], Schema] = {
    ("post", _ENDPOINTS): _part(ENDPOINT),
    ("put", f"{_ENDPOINTS}/{{name}}"): _part(_UNNAMED),
    ("post", f"{_ENDPOINTS}/{{name}}/rollback"): _object({"config_version": {"type": "integer", "minimum": 1}}),
    ("put", f"{_ENDPOINTS}/{{name}}/config"): _part(_CONFIG_UPDATE),
    ("put", f"{_ENDPOINTS}/{{name}}/ai-gateway"): _part("AiGateway"),
    ("patch", f"{_ENDPOINTS}/{{name}}/tags"): _TAGS,
    ("put", f"{_ENDPOINTS}/{{name}}/rate-limits"): _LIMITS,
    ("patch", f"{_ENDPOINTS}/{{name}}/notifications"): _object({}, {"email_notifications": _OBJECT}),
    ("patch", f"{_ENDPOINTS}/{{name}}/telemetry-config"): _object({}, {"telemetry_config": _OBJECT}),
    ("post", f"{_ENDPOINTS}/pt"): _part(ENDPOINT),
    ("put", f"{_ENDPOINTS}/pt/{{name}}/config"): _object({"config": _part(_CONFIG_UPDATE)}),
    ("post", f"{_SECRETS}/scopes/create"): _object({"scope": _SCOPE}, {"initial_manage_principal": {"enum": [USERS]}}),
    ("post", f"{_SECRETS}/scopes/delete"): _object({"scope": _SCOPE}),
    ("post", f"{_SECRETS}/put"): _SECRET,
    ("post", f"{_SECRETS}/delete"): _object({"scope": _SCOPE, "key": _KEY}),
    ("post", f"{_SECRETS}/acls/put"): _object(
        {"scope": _SCOPE, "principal": _PRINCIPAL, "permission": {"enum": list(PERMISSIONS)}}
    ),
    ("post", f"{_SECRETS}/acls/delete"): _object({"scope": _SCOPE, "principal": _PRINCIPAL}),
    ("post", f"{_SECRETS}/rotate-master"): _object({}),
    ("put", _PERMISSIONS): _GRANTS,
    ("patch", _PERMISSIONS): _GRANTS,
    ("post", "/api/2.0/token/create"): _TOKEN,
    ("post", "/api/2.0/token/delete"): _object({"token_id": _TEXT}),
    ("post", "/api/2.0/external-function"): _object({"connection_name": _TEXT}, _CALL),
    ("post", "/serving-endpoints/{name}/feedback"): _FEEDBACK,
    ("post", "/serving-endpoints/feedback"): _FEEDBACK,
}

_DETAIL = "EndpointDetail"
_STATE = _object(dict.fromkeys(("ready", "config_update", "suspend"), _TEXT))
_TOLD = _object(
    {
        "name": NAME,
        "id": ENDPOINT_ID,
        "state": _STATE,
        "task": {"type": ["string", "null"]},
        "permission_level": {"enum": _LEVELS},
        "creator": {"type": ["string", "null"]},
        "creation_timestamp": {"type": "integer", "description": "Milliseconds since the epoch"},
        "last_updated_timestamp": {"type": "integer", "description": "Milliseconds since the epoch"},
    },
    {
        "config": {"type": "object", "description": "What serves; not there until the first one is ready"},
        "pending_config": {"type": "object", "description": "What will serve when its engines are ready"},
    },
)
_ACL = _object({"principal": _PRINCIPAL, "permission": {"enum": list(PERMISSIONS)}})
_TOKEN_INFO = _object({"token_id": _TEXT, "user": _WHO, "creation_time": {"type": "integer"}})

#: By method and path; the others answer an object.
ANSWERS: Mapping[tuple[str, str], Schema] = {
    ("get", _ENDPOINTS): _object({"endpoints": _list(_part(_DETAIL))}),
    ("post", _ENDPOINTS): _part(_DETAIL),
    ("post", f"{_ENDPOINTS}/pt"): _part(_DETAIL),
    ("put", f"{_ENDPOINTS}/pt/{{name}}/config"): _part(_DETAIL),
    ("get", f"{_ENDPOINTS}/{{name}}"): _part(_DETAIL),
    ("put", f"{_ENDPOINTS}/{{name}}"): _part(_DETAIL),
    ("put", f"{_ENDPOINTS}/{{name}}/config"): _part(_DETAIL),
    ("post", f"{_ENDPOINTS}/{{name}}/rollback"): _part(_DETAIL),
    ("patch", f"{_ENDPOINTS}/{{name}}/telemetry-config"): _part(_DETAIL),
    ("patch", f"{_ENDPOINTS}/{{name}}/tags"): _object({"tags": _list(_part("EndpointTag"))}),
    ("get", f"{_SECRETS}/scopes/list"): _object({"scopes": _list(_object({"name": _SCOPE}))}),
    ("get", f"{_SECRETS}/list"): _object({"secrets": _list(_object({"key": _KEY}))}),
    ("get", f"{_SECRETS}/acls/get"): _ACL,
    ("get", f"{_SECRETS}/acls/list"): _object({"acls": _list(_ACL), "items": _list(_ACL)}),
    ("post", "/api/2.0/token/create"): _object({"token_value": _TEXT, "token_info": _TOKEN_INFO}),
    ("get", "/api/2.0/token/list"): _object({"token_infos": _list(_TOKEN_INFO)}),
}


def components() -> dict[str, Schema]:
    """The endpoint document and its parts, by name."""
    whole = schema()
    parts = whole.pop("$defs")
    del whole["$schema"]
    parts[_CONFIG_UPDATE] = {**parts["EndpointConfig"], "required": [], "minProperties": 1}
    model = parts["ExternalModel"]
    model["oneOf"] = [_alternative(rule) for rule in model.pop("allOf")]
    for config in ProviderConfig.__subclasses__():
        _offer_plaintext(parts[config.__name__], sorted(secret_fields(config)))
    parts |= {ENDPOINT: whole, _UNNAMED: {**whole, "required": ["config"]}, _DETAIL: _TOLD}
    return {name: _as_component(part, strict=name == _STRICT) for name, part in parts.items()}


def _alternative(rule: Schema) -> Schema:
    """What one provider needs, as one of several: programs that read OpenAPI know few of JSON Schema's conditions."""
    when, then = rule["if"], rule["then"]
    return {
        "properties": {**when["properties"], **then["properties"]},
        "required": [*when["required"], *then.get("required", ())],
    }


def _offer_plaintext(part: Schema, fields: Sequence[str]) -> None:
    """Say that each key may be sent in clear in the place of its reference; it is kept sealed, and not told again."""
    needed = [field for field in fields if field in part.get("required", ())]
    part["properties"] |= {field + PLAINTEXT: {**_TEXT, "writeOnly": True} for field in fields}
    if needed:
        part["required"] = [field for field in part["required"] if field not in needed]
        part["allOf"] = [{"oneOf": [{"required": [field]}, {"required": [field + PLAINTEXT]}]} for field in needed]


def _as_component(part: Any, *, strict: bool) -> Any:
    """A part that names the others where an OpenAPI document keeps them, and takes keys it does not know."""
    if isinstance(part, list):
        return [_as_component(item, strict=strict) for item in part]
    if not isinstance(part, dict):
        return part
    told = {key: _as_component(value, strict=strict) for key, value in part.items()}
    if isinstance(told.get("$ref"), str):
        told["$ref"] = told["$ref"].replace("#/$defs/", "#/components/schemas/")
    if told.get("additionalProperties") is False and not strict:
        told["additionalProperties"] = True
    return told
