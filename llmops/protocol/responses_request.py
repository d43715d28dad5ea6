"""A request of OpenAI's Responses as chat asks it.

What has a name in chat is passed on. What only OpenAI's own servers can do (stored conversations, hosted tools) is
refused by name.

Source: https://platform.openai.com/docs/api-reference/responses/create
"""

from typing import Any

from llmops.errors import BadRequest
from llmops.protocol import fields
from llmops.protocol.fields import Fields
from llmops.protocol.responses_input import messages

#: Passed on as they are: chat has them under the same name.
_SAME = frozenset(
    {"model", "stream", "temperature", "top_p", "top_k", "min_p", "seed", "stop", "user", "logit_bias"}
    | {"frequency_penalty", "presence_penalty", "repetition_penalty", "service_tier"}
    | {"prompt_cache_key", "prompt_cache_retention", "safety_identifier", "top_logprobs"}
)
_TRANSLATED = frozenset(
    {"input", "instructions", "max_output_tokens", "tools", "tool_choice", "text", "reasoning", "include"}
    | {"parallel_tool_calls"}
)
#: Ask nothing of the model: kept with the request, said back in the answer, or about storing what is not stored here.
_OURS = frozenset({"metadata", "store", "stream_options", "truncation", "prompt_cache_options"})
_REFUSED = {
    "previous_response_id": "answers are not kept here; send the conversation in 'input'",
    "conversation": "conversations are not kept here; send the conversation in 'input'",
    "background": "an answer is given while the caller waits",
    "prompt": "prompt templates are kept by OpenAI; send 'instructions' and 'input'",
    "context_management": "a chat endpoint is asked with the whole conversation",
    "max_tool_calls": "it limits tools that OpenAI runs, and a chat endpoint has none",
}
_ENCRYPTED, _LOGPROBS = "reasoning.encrypted_content", "message.output_text.logprobs"
_TOOL = ("type", "name", "description", "parameters", "strict")


def chat(body: Fields) -> dict[str, Any]:
    """Translate a request.

    Raises:
        BadRequest: A field has a wrong shape, or chat cannot say it; names it.
    """
    fields.refuse(body, _REFUSED)
    fields.only(body, _SAME | _TRANSLATED | _OURS | _REFUSED.keys())
    asked = {name: value for name, value in body.items() if name in _SAME and value is not None}
    asked["messages"] = messages(body)
    if body.get("max_output_tokens") is not None:
        asked["max_tokens"] = body["max_output_tokens"]
    return asked | _text(body) | _reasoning(body) | _tools(body) | _included(body)


def _text(body: Fields) -> dict[str, Any]:
    given = fields.object_(body.get("text"), "text")
    fields.only(given, ("format", "verbosity"), "text.")
    told = {"verbosity": given["verbosity"]} if given.get("verbosity") is not None else {}
    wanted = fields.object_(given.get("format"), "text.format")
    kind = wanted.get("type", "text")
    if kind == "text":
        return told
    if kind == "json_object":
        return {**told, "response_format": {"type": kind}}
    if kind != "json_schema":
        raise fields.kind_refused("text.format", kind, "text, json_object and json_schema")
    named = {key: wanted[key] for key in ("name", "schema", "strict", "description") if wanted.get(key) is not None}
    return {**told, "response_format": {"type": kind, "json_schema": named}}


def _reasoning(body: Fields) -> dict[str, Any]:
    """How hard to think. A summary cannot be asked for in chat; reasoning that comes is given whole."""
    given = fields.object_(body.get("reasoning"), "reasoning")
    fields.only(given, ("effort", "summary", "generate_summary"), "reasoning.")
    return {"reasoning_effort": given["effort"]} if given.get("effort") is not None else {}


def _tools(body: Fields) -> dict[str, Any]:
    """Tools and what is said of them, which OpenAI refuses where there are none."""
    given = enumerate(fields.objects(body.get("tools"), "tools"))
    tools = [_tool(tool, f"tools[{number}]") for number, tool in given]
    choice = body.get("tool_choice")
    if not tools:
        if choice not in (None, "auto", "none"):
            raise fields.no_tools()
        return {}
    told: dict[str, Any] = {"tools": tools}
    if body.get("parallel_tool_calls") is not None:
        told["parallel_tool_calls"] = body["parallel_tool_calls"]
    if choice is None:
        return told
    return {**told, "tool_choice": choice if isinstance(choice, str) else _choice(choice)}


def _tool(tool: Fields, where: str) -> dict[str, Any]:
    if tool.get("type") != "function":
        raise BadRequest(
            f"'{where}.type' is {str(tool.get('type'))[:60]!r}: tools that OpenAI runs or defines are not served by a"
            " chat endpoint; describe your own as 'function'"
        )
    fields.only(tool, _TOOL, f"{where}.")
    fields.text(tool, "name", f"{where}.")
    function = {name: tool[name] for name in _TOOL if name != "type" and tool.get(name) is not None}
    return {"type": "function", "function": function}


def _choice(given: Any) -> dict[str, Any]:
    choice = fields.object_(given, "tool_choice")
    kind = choice.get("type")
    if kind == "function":
        return {"type": kind, "function": {"name": fields.text(choice, "name", "tool_choice.")}}
    if kind == "allowed_tools":
        named = [_choice(tool) for tool in fields.objects(choice.get("tools"), "tool_choice.tools")]
        return {"type": kind, kind: {"mode": choice.get("mode", "auto"), "tools": named}}
    raise fields.kind_refused("tool_choice", kind, "auto, required, none, function and allowed_tools")


def _included(body: Fields) -> dict[str, Any]:
    given = body.get("include")
    wanted = [] if given is None else given
    if not isinstance(wanted, list):
        raise BadRequest("'include' must be a list of strings")
    for name in wanted:
        # What is encrypted is for OpenAI alone; a model that has none gives none.
        if name not in (_ENCRYPTED, _LOGPROBS):
            raise BadRequest(f"'include' names {str(name)[:60]!r}; a chat endpoint gives {_LOGPROBS} only")
    return {"logprobs": True} if _LOGPROBS in wanted or body.get("top_logprobs") is not None else {}
