"""A request of Anthropic's Messages as chat asks it.

What has a name in chat is passed on. What chat cannot say and would change the answer is refused by name; hints about
caching, which change nothing, are left out.

Source: https://platform.claude.com/docs/en/api/messages
"""

from hashlib import sha256
from typing import Any

import orjson

from llmops.errors import BadRequest
from llmops.protocol import fields, parts
from llmops.protocol.fields import Fields
from llmops.protocol.parts import Part

#: Passed on as they are: chat has them under the same name.
_SAME = frozenset(
    {"model", "stream", "max_tokens", "temperature", "top_p", "top_k", "min_p", "seed", "user", "logit_bias"}
    | {"frequency_penalty", "presence_penalty", "repetition_penalty", "reasoning_effort", "response_format"}
    | {"verbosity", "prompt_cache_key", "safety_identifier", "stop"}
)
_TRANSLATED = frozenset(
    {"messages", "system", "stop_sequences", "tools", "tool_choice", "metadata", "thinking", "service_tier"}
    | {"output_config", "output_format", "cache_control", "stream_options", "parallel_tool_calls"}
)
_REFUSED = {
    "mcp_servers": "an MCP server is asked by the vendor, and a chat endpoint has none",
    "container": "there are no containers behind a chat endpoint",
    "context_management": "a chat endpoint is asked with the whole conversation",
}
_TOOL = frozenset({"type", "name", "description", "input_schema", "strict", "cache_control", "eager_input_streaming"})
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}
_EFFORTS = {"max": "xhigh"}
_LONGEST_USER = 64
#: Thinking tokens from which on an effort is meant.
_BUDGETS = ((16_384, "high"), (4096, "medium"), (0, "low"))


def chat(body: Fields) -> dict[str, Any]:
    """Translate a request.

    Raises:
        BadRequest: A field has a wrong shape, or chat cannot say it; names it.
    """
    fields.refuse(body, _REFUSED)
    fields.only(body, _SAME | _TRANSLATED | _REFUSED.keys())
    asked = {name: value for name, value in body.items() if name in _SAME and value is not None}
    asked["messages"] = [*_system(body.get("system")), *_messages(body.get("messages"))]
    stops = body.get("stop_sequences")
    if stops is not None and not (isinstance(stops, list) and all(isinstance(one, str) for one in stops)):
        raise BadRequest("'stop_sequences' must be a list of strings")
    if stops:
        asked["stop"] = stops
    if named := user(body):
        # OpenAI takes 64 characters, and Anthropic's own agent sends more.
        asked["user"] = named if len(named) <= _LONGEST_USER else sha256(named.encode("utf-8", "replace")).hexdigest()
    if body.get("service_tier") == "standard_only":
        asked["service_tier"] = "default"
    asked |= _output(body) | _thinking(body)
    return asked | _tools(body)


def user(body: Fields) -> str:
    """Who asks, as the caller wrote it; empty where nobody is named."""
    named = fields.object_(body.get("metadata"), "metadata").get("user_id") or body.get("user")
    return named if isinstance(named, str) else ""


def _system(given: Any) -> list[Part]:
    if given in (None, "", []):
        return []
    if isinstance(given, str):
        return [{"role": "system", "content": given}]
    texts = []
    for number, block in enumerate(fields.objects(given, "system")):
        if block.get("type") != "text":
            raise fields.kind_refused(f"system[{number}]", block.get("type"), "text there")
        texts.append(parts.text(fields.text(block, "text", f"system[{number}].")))
    return [{"role": "system", "content": parts.content(texts)}]


def _messages(given: Any) -> list[Part]:
    told: list[Part] = []
    for number, message in enumerate(fields.objects(given, "messages")):
        where = f"messages[{number}]"
        role, content = message.get("role"), message.get("content")
        if role not in ("user", "assistant", "system"):
            raise BadRequest(f"'{where}.role' must be 'user' or 'assistant'; a system prompt stands in 'system'")
        if isinstance(content, str):
            told.append({"role": role, "content": content})
        elif content is None:
            raise BadRequest(f"'{where}.content' must be a string or a list of blocks")
        elif role == "assistant":
            told.append(_said(fields.objects(content, f"{where}.content"), f"{where}.content"))
        else:
            told += _heard(role, fields.objects(content, f"{where}.content"), f"{where}.content")
    if not told:
        raise BadRequest("'messages' must be a non-empty list of objects with 'role' and 'content'")
    return told


def _heard(role: str, blocks: list[Fields], where: str) -> list[Part]:
    """A message of the user: first what its tools answered, as chat wants it, then what they say."""
    results: list[Part] = []
    said: list[Part] = []
    for number, block in enumerate(blocks):
        at = f"{where}[{number}]"
        if block.get("type") == "tool_result":
            result, pictures = _result(block, at)
            results.append(result)
            said += parts.shown(pictures, [result["tool_call_id"]] * len(pictures))
        else:
            said += _parts(block, at)
    return results + ([{"role": role, "content": parts.content(said)}] if said or not results else [])


def _result(block: Fields, where: str) -> tuple[Part, list[Part]]:
    """A tool's result: its text as chat's tool message, and what else it showed."""
    content = block.get("content")
    inner = [] if content is None else content
    if isinstance(inner, str):
        found = [parts.text(inner)]
    else:
        given = enumerate(fields.objects(inner, f"{where}.content"))
        found = [part for number, one in given for part in _parts(one, f"{where}.content[{number}]")]
    words = "\n".join(part["text"] for part in found if part["type"] == "text")
    # Chat has no word for a tool that failed.
    words = f"Error: {words}" if block.get("is_error") is True else words
    told = {"role": "tool", "tool_call_id": fields.text(block, "tool_use_id", f"{where}."), "content": words}
    return told, [part for part in found if part["type"] != "text"]


def _parts(block: Fields, where: str) -> list[Part]:
    kind = block.get("type")
    if kind == "text":
        return [parts.text(fields.text(block, "text", f"{where}."))]
    if kind == "image":
        return [parts.image(_url(block, where))]
    if kind == "document":
        return _document(block, where)
    raise fields.kind_refused(where, kind, "text, image, document and tool_result")


def _url(block: Fields, where: str) -> str:
    source = fields.object_(block.get("source"), f"{where}.source")
    at = f"{where}.source."
    if source.get("type") == "url":
        return fields.text(source, "url", at)
    if source.get("type") == "base64":
        return parts.data_url(fields.text(source, "media_type", at), fields.text(source, "data", at))
    raise fields.kind_refused(f"{where}.source", source.get("type"), "base64 and url")


def _document(block: Fields, where: str) -> list[Part]:
    fields.only(block, ("type", "source", "title", "context", "cache_control", "citations"), f"{where}.")
    if fields.object_(block.get("citations"), f"{where}.citations").get("enabled"):
        raise BadRequest(f"'{where}.citations' is not served: a chat endpoint does not cite")
    source = fields.object_(block.get("source"), f"{where}.source")
    kind = source.get("type")
    title = block.get("title") if isinstance(block.get("title"), str) else None
    head = [parts.text(words) for words in (title, block.get("context")) if isinstance(words, str) and words]
    if kind == "text":
        return [*head, parts.text(fields.text(source, "data", f"{where}.source."))]
    if kind == "base64":
        return [*head[1 if title else 0 :], parts.file(_url(block, where), title)]
    if kind == "content":
        inner = source.get("content")
        if isinstance(inner, str):
            return [*head, parts.text(inner)]
        given = enumerate(fields.objects(inner, f"{where}.source.content"))
        return [*head, *(part for n, one in given for part in _parts(one, f"{where}.source.content[{n}]"))]
    raise fields.kind_refused(f"{where}.source", kind, "text, base64 and content")


def _said(blocks: list[Fields], where: str) -> Part:
    """A message of the assistant: text, tool calls, and reasoning where chat has it."""
    words, thoughts, signed, calls = [], [], [], []
    for number, block in enumerate(blocks):
        kind, at = block.get("type"), f"{where}[{number}]."
        if kind == "text":
            words.append(fields.text(block, "text", at))
        elif kind == "tool_use":
            calls.append(_call(block, at))
        elif kind == "thinking":
            thoughts.append(fields.text(block, "thinking", at))
            signed += [{key: block[key] for key in ("type", "thinking", "signature")}] if block.get("signature") else []
        elif kind == "redacted_thinking":
            signed.append({"type": kind, "data": fields.text(block, "data", at)})
        else:
            raise fields.kind_refused(at[:-1], kind, "text, tool_use and thinking from an assistant")
    told: Part = {"role": "assistant", "content": "".join(words) if words or not calls else None}
    told |= {"reasoning_content": "".join(thoughts)} if thoughts else {}
    # A signature is only there where a vendor behind litellm made it, and wants it back.
    told |= {"thinking_blocks": signed} if signed else {}
    return told | ({"tool_calls": calls} if calls else {})


def _call(block: Fields, where: str) -> Part:
    arguments = orjson.dumps(fields.object_(block.get("input"), f"{where}input")).decode()
    name = fields.text(block, "name", where)
    call_id = fields.text(block, "id", where)
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def _tools(body: Fields) -> dict[str, Any]:
    """Tools and what is said of them, which OpenAI refuses where there are none."""
    tools = [_tool(tool, f"tools[{number}].") for number, tool in enumerate(fields.objects(body.get("tools"), "tools"))]
    choice = fields.object_(body.get("tool_choice"), "tool_choice")
    if not tools:
        if choice.get("type") in ("any", "tool"):
            raise fields.no_tools()
        return {}
    told: dict[str, Any] = {"tools": tools}
    if body.get("parallel_tool_calls") is not None:
        told["parallel_tool_calls"] = body["parallel_tool_calls"]
    if not choice:
        return told
    kind = choice.get("type")
    if kind == "tool":
        named = fields.text(choice, "name", "tool_choice.")
        told["tool_choice"] = {"type": "function", "function": {"name": named}}
    elif isinstance(kind, str) and kind in _CHOICES:
        told["tool_choice"] = _CHOICES[kind]
    else:
        raise fields.kind_refused("tool_choice", kind, "auto, any, tool and none")
    if choice.get("disable_parallel_tool_use") is True:
        told["parallel_tool_calls"] = False
    return told


def _tool(tool: Fields, where: str) -> Part:
    if tool.get("type") not in (None, "custom"):
        raise BadRequest(
            f"'{where}type' is {str(tool['type'])[:60]!r}: tools that Anthropic runs or defines are not served by a"
            " chat endpoint; describe your own with 'name' and 'input_schema'"
        )
    fields.only(tool, _TOOL, where)
    function = {"name": fields.text(tool, "name", where)}
    function |= {name: tool[name] for name in ("description", "strict") if tool.get(name) is not None}
    schema = fields.object_(tool.get("input_schema"), f"{where}input_schema")
    return {"type": "function", "function": {**function, "parameters": schema or {"type": "object", "properties": {}}}}


def _output(body: Fields) -> dict[str, Any]:
    """Structured output, and how hard to try."""
    config = fields.object_(body.get("output_config"), "output_config")
    fields.only(config, ("format", "effort"), "output_config.")
    told: dict[str, Any] = {}
    wanted = fields.object_(config.get("format") or body.get("output_format"), "output_config.format")
    if wanted:
        if wanted.get("type") != "json_schema":
            raise fields.kind_refused("output_config.format", wanted.get("type"), "json_schema")
        schema = fields.object_(wanted.get("schema"), "output_config.format.schema")
        named = {"name": "answer", "schema": schema, "strict": True}
        told["response_format"] = {"type": "json_schema", "json_schema": named}
    if config.get("effort") is not None:
        effort = fields.text(config, "effort", "output_config.")
        told["reasoning_effort"] = _EFFORTS.get(effort, effort)
    return told


def _thinking(body: Fields) -> dict[str, Any]:
    """Extended thinking as chat's effort; adaptive thinking is what a model does unasked."""
    thinking = fields.object_(body.get("thinking"), "thinking")
    kind = thinking.get("type")
    if kind in (None, "disabled", "adaptive"):
        return {}
    budget = thinking.get("budget_tokens")
    if kind != "enabled" or not isinstance(budget, int) or budget < 0:
        raise BadRequest("'thinking' must be of type enabled (with 'budget_tokens'), adaptive or disabled")
    if "reasoning_effort" in body or fields.object_(body.get("output_config"), "output_config").get("effort"):
        return {}
    return {"reasoning_effort": next(effort for least, effort in _BUDGETS if budget >= least)}
