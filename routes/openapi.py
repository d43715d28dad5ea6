"""The invocation doors in the OpenAPI document: they are plain ASGI, so FastAPI does not know them."""

from typing import Any

from fastapi import FastAPI

from llmops.protocol.task import FIELD, PATH, Task

_SUMMARIES = {Task.CHAT: "Chat", Task.COMPLETIONS: "Complete a text", Task.EMBEDDINGS: "Embed texts"}
_ANSWERS = {
    "200": {"description": "The model's answer, as it came; server-sent events where `stream` is true"},
    "400": {"description": "The body does not fit, or the endpoint waits for something"},
    "404": {"description": "No endpoint of that name"},
    "502": {"description": "The model behind the endpoint failed"},
}


def describe(app: FastAPI) -> None:
    """Make the application's OpenAPI document whole."""
    made = app.openapi

    def openapi() -> dict[str, Any]:
        document = made()
        document["paths"].update(_paths())
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def _paths() -> dict[str, Any]:
    named = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
    paths = {"/serving-endpoints/{name}/invocations": _post("Invoke an endpoint", sorted(FIELD.values()), [], [named])}
    for prefix in ("/v1", "/serving-endpoints"):
        for task, path in PATH.items():
            paths[prefix + path] = _post(_SUMMARIES[task], [FIELD[task]], ["model", FIELD[task]], [])
    return paths


def _post(summary: str, fields: list[str], required: list[str], parameters: list[Any]) -> dict[str, Any]:
    model = {"model": {"type": "string", "description": "Name of the endpoint"}} if required else {}
    own = {"stream": {"type": "boolean"}, "client_request_id": {"type": "string"}}
    properties: dict[str, Any] = {**model, **{field: {} for field in fields}, **own}
    schema = {"type": "object", "properties": properties, "required": required, "additionalProperties": True}
    body = {"required": True, "content": {"application/json": {"schema": schema}}}
    return {
        "post": {
            "tags": ["Invocations"],
            "summary": summary,
            "parameters": parameters,
            "requestBody": body,
            "responses": _ANSWERS,
        }
    }
