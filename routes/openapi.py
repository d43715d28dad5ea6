"""The OpenAPI document of the server: what FastAPI cannot know of its routes.

That is the invocation doors, which are plain ASGI; what the bodies hold, which the routes check themselves; and how
errors are told.
"""

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI

from llmops.protocol.task import FIELD, PATH, Task
from routes.invocations import COUNT_DOOR
from routes.openapi_bodies import ANSWERS, BODIES, ENDPOINT_ID, NAME, components

_SUMMARIES = {Task.CHAT: "Chat", Task.COMPLETIONS: "Complete a text", Task.EMBEDDINGS: "Embed texts"}
_HEADERS = {
    "x-request-id": "The interaction, 32 hex digits; errors have it too",
    "served-model-name": "The served entity that answered, or was asked last",
    "x-mlflow-trace-id": "The trace of the interaction, where it is recorded",
    "x-mlflow-run-id": "The run of the interaction, where it is recorded and the id is known beforehand",
}
_ANSWERS = {
    "200": {
        "description": "The model's answer, as it came; server-sent events where `stream` is true",
        "headers": {name: {"description": what, "schema": {"type": "string"}} for name, what in _HEADERS.items()},
    },
    "400": {"description": "The body does not fit, or the endpoint waits for something"},
    "404": {"description": "No endpoint of that name"},
    "502": {"description": "The model behind the endpoint failed"},
    "503": {"description": "Not now: the model is busy, or the interaction log is full and set to refuse"},
}
_COUNTED = {
    "200": {"description": "`input_tokens`, counted by tiktoken; no model is asked, and nothing is recorded"},
    **{status: answer for status, answer in _ANSWERS.items() if status in ("400", "404")},
}


_TEXT = {"type": "string"}
_ERROR = {
    "type": "object",
    "properties": {"error_code": _TEXT, "message": _TEXT},
    "required": ["error_code", "message"],
}
_OPENAI_ERROR = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {"message": _TEXT, "type": _TEXT, "param": {"type": "null"}, "code": _TEXT},
            "required": ["message", "type", "code"],
        }
    },
    "required": ["error"],
}
_ANTHROPIC_ERROR = {
    "type": "object",
    "properties": {
        "type": {"const": "error"},
        "error": {"type": "object", "properties": {"type": _TEXT, "message": _TEXT}, "required": ["type", "message"]},
    },
    "required": ["type", "error"],
}
#: Whose errors a route speaks, by the beginning of its path; Databricks' where none fits.
_SHAPES = {"/v1/messages": "AnthropicError", "/v1/": "OpenAIError"}
#: What a parameter of the path looks like, by its name.
_PARAMETERS = {"name": NAME, "served": NAME, "endpoint_id": ENDPOINT_ID}


def describe(app: FastAPI) -> None:
    """Make the application's OpenAPI document whole; it is made once, when somebody asks for it."""
    made = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            _complete(made())
        return made()

    app.openapi = openapi  # type: ignore[method-assign]


def _complete(document: dict[str, Any]) -> None:
    document["paths"].update(_paths())
    document["components"] = {
        "schemas": {**components(), "Error": _ERROR, "OpenAIError": _OPENAI_ERROR, "AnthropicError": _ANTHROPIC_ERROR},
        "responses": {
            "Error": _answer("An error: its code, and what to do about it", "Error"),
            "OpenAIError": _answer("An error, as OpenAI's clients read one", "OpenAIError"),
            "AnthropicError": _answer("An error, as Anthropic's clients read one", "AnthropicError"),
        },
    }
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            _complete_operation(method, path, operation)


def _complete_operation(method: str, path: str, operation: dict[str, Any]) -> None:
    answers = operation["responses"]
    # FastAPI's own, which no route here answers.
    answers.pop("422", None)
    shape = next((shape for prefix, shape in _SHAPES.items() if path.startswith(prefix)), "Error")
    operation["responses"] = {**answers, "default": {"$ref": f"#/components/responses/{shape}"}}
    for parameter in operation.get("parameters", ()):
        if parameter["in"] == "path" and parameter["name"] in _PARAMETERS:
            parameter["schema"] = _PARAMETERS[parameter["name"]]
    if (method, path) in BODIES:
        operation["requestBody"] = {"required": True, "content": _json(BODIES[method, path])}
    if (method, path) in ANSWERS:
        answers["200"]["content"] = _json(ANSWERS[method, path])


def _answer(what: str, part: str) -> Mapping[str, Any]:
    return {"description": what, "content": _json({"$ref": f"#/components/schemas/{part}"})}


def _json(schema: Any) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _paths() -> dict[str, Any]:
    fields = sorted(FIELD.values())
    named, served = (
        {"name": part, "in": "path", "required": True, "schema": {"type": "string"}} for part in ("name", "served")
    )
    direct = _post("Invoke one served entity", fields, [], [named, served])
    paths = {
        "/serving-endpoints/{name}/invocations": _post("Invoke an endpoint", fields, [], [named]),
        "/serving-endpoints/{name}/served-models/{served}/invocations": direct,
        "/endpoints/{name}/invocations": _post("Invoke an endpoint, as MLflow's gateway", fields, [], [named]),
    }
    for prefix in ("/v1", "/serving-endpoints"):
        for task, path in PATH.items():
            paths[prefix + path] = _post(_SUMMARIES[task], [FIELD[task]], ["model", FIELD[task]], [])
        given = ["input", "instructions", "tools", "text"]
        paths[f"{prefix}/responses"] = _post("Respond, as OpenAI", given, ["model", "input"], [])
    asked = ["messages", "system", "tools"]
    paths["/v1/messages"] = _post("Chat, as Anthropic", ["max_tokens", *asked], ["model", "messages"], [])
    paths[COUNT_DOOR] = _post("Count the tokens of a message", asked, ["model", "messages"], [], _COUNTED)
    return paths


def _post(
    summary: str, fields: list[str], required: list[str], parameters: list[Any], answers: Mapping[str, Any] = _ANSWERS
) -> dict[str, Any]:
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
            "responses": answers,
        }
    }
