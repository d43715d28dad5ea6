"""The OpenAPI document of one endpoint: its invocation, with the body and the answer of its task.

The bodies say what every model of a task takes and gives; what a vendor adds passes through, so no more is refused.

Source: https://spec.openapis.org/oas/v3.1.0; ../shared/reference/databricks_contract.md 4
"""

from collections.abc import Mapping, Sequence
from typing import Any

from llmops.endpoints.detail import told_config
from llmops.errors import EndpointNotReady
from llmops.protocol.task import FIELD, Task

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_TEXT_OR_TEXTS: Schema = {"oneOf": [_TEXT, {"type": "array", "items": _TEXT, "minItems": 1}]}
_SAMPLING: Schema = {
    "max_tokens": {"type": "integer", "minimum": 1},
    "temperature": {"type": "number", "minimum": 0, "maximum": 2},
    "top_p": {"type": "number", "minimum": 0, "maximum": 1},
    "n": {"type": "integer", "minimum": 1},
    "stop": _TEXT_OR_TEXTS,
    "stream": {"type": "boolean", "default": False, "description": "Answer with server-sent events"},
}
_OWN: Schema = {
    "client_request_id": {"type": "string", "description": "Recorded with the interaction"},
    "usage_context": {"type": "object", "additionalProperties": _TEXT, "description": "Recorded likewise"},
}


def _object(properties: Mapping[str, Any], required: Sequence[str] = ()) -> Schema:
    return {"type": "object", "properties": dict(properties), "required": list(required), "additionalProperties": True}


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


_MESSAGE = _object({"role": _TEXT, "content": {}, "tool_calls": {"type": ["array", "null"]}}, ["role"])
_USAGE = _object({"prompt_tokens": _COUNT, "completion_tokens": _COUNT, "total_tokens": _COUNT})
_FIELDS: Mapping[Task, Schema] = {
    Task.CHAT: {"messages": {**_list(_MESSAGE), "minItems": 1}, "tools": {"type": "array"}, **_SAMPLING},
    Task.COMPLETIONS: {"prompt": _TEXT_OR_TEXTS, **_SAMPLING},
    Task.EMBEDDINGS: {"input": _TEXT_OR_TEXTS, "encoding_format": {"enum": ["float", "base64"]}},
}
_ANSWERS: Mapping[Task, Schema] = {
    Task.CHAT: {"choices": _list(_object({"index": _COUNT, "message": _MESSAGE}))},
    Task.COMPLETIONS: {"choices": _list(_object({"index": _COUNT, "text": _TEXT}))},
    Task.EMBEDDINGS: {"data": _list(_object({"index": _COUNT, "embedding": {}}))},
}
_ERROR = _object({"error_code": _TEXT, "message": _TEXT}, ["error_code", "message"])


def describe(endpoint: Mapping[str, Any], url: str) -> dict[str, Any]:
    """The document of an endpoint.

    Args:
        endpoint: As its detail tells it.
        url: Root of the server, as the caller reached it.

    Raises:
        EndpointNotReady: Its document has a problem, so that it has no task.
    """
    if endpoint["task"] is None:
        raise EndpointNotReady(f"endpoint '{endpoint['name']}' is not ready: {endpoint['llmops'].get('problem')}")
    task = Task(endpoint["task"])
    request = {"required": True, "content": _json(_object({**_FIELDS[task], **_OWN}, [FIELD[task]]))}
    config = told_config(endpoint)
    direct = [entity["name"] for entity in config["served_entities"]]
    served = {"name": "served", "in": "path", "required": True, "schema": {"enum": direct}}
    root = f"/serving-endpoints/{endpoint['name']}"
    post = {"requestBody": request, "responses": _responses(task)}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": endpoint["name"],
            "version": str(config["config_version"]),
            "description": endpoint.get("description") or f"A serving endpoint of task {task}",
        },
        "servers": [{"url": url}],
        "paths": {
            f"{root}/invocations": {
                "post": {"operationId": "invoke", "summary": "Invoke the endpoint", **post},
            },
            f"{root}/served-models/{{served}}/invocations": {
                "parameters": [served],
                "post": {"operationId": "invoke_served_entity", "summary": "Invoke one served entity", **post},
            },
        },
        "components": {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
        "security": [{"token": []}, {}],
    }


def _responses(task: Task) -> Schema:
    answer = _object({"id": _TEXT, "object": _TEXT, "model": _TEXT, **_ANSWERS[task], "usage": _USAGE})
    content = _json(answer)
    if task is not Task.EMBEDDINGS:
        content["text/event-stream"] = {"schema": {"type": "string", "description": "data: lines; the last is [DONE]"}}
    failed = {"description": "An error, with its code and message", "content": _json(_ERROR)}
    return {"200": {"description": "The model's answer", "content": content}, "default": failed}


def _json(schema: Schema) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}
