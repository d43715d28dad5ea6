"""A request to the litellm child, read and sorted: what reaches the vendor, and what does not.

Nothing here imports litellm.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from llmops.errors import BadRequest
from llmops.protocol import embeddings
from llmops.protocol.task import FIELD, Task
from llmops.providers import litellm_bridge

# Only these fields of a body reach litellm. It takes addresses and credentials by keyword too: a caller's ``api_base``
# would get the endpoint's key.
_OPENAI = """
    audio frequency_penalty function_call functions logit_bias logprobs max_completion_tokens max_tokens modalities n
    parallel_tool_calls prediction presence_penalty prompt_cache_key reasoning_effort response_format safety_identifier
    seed service_tier stop store temperature tool_choice tools top_logprobs top_p user verbosity web_search_options
"""
_VENDORS = """
    cache_control cached_content citation_options container context_management documents guardrailConfig
    media_resolution min_p output_config performanceConfig repetition_penalty requestMetadata safety_settings thinking
    top_k
"""
_EMBEDDINGS = "auto_truncate dimensions input_type task_type title truncate user"

CHAT_FIELDS = frozenset(_OPENAI.split()) | frozenset(_VENDORS.split())
EMBEDDINGS_FIELDS = frozenset(_EMBEDDINGS.split())
#: Of these litellm knows which vendor takes them.
OPENAI_FIELDS = frozenset(_OPENAI.split()) | {"dimensions"}
#: Handled in this process.
_OURS = frozenset({"model", "stream", "stream_options", "encoding_format", *FIELD.values()})

#: litellm wants Cohere's whole URL, which differs by task.
_COHERE_PATH: Mapping[Task, str] = {
    Task.CHAT: "/v2/chat",
    Task.COMPLETIONS: "/v2/chat",
    Task.EMBEDDINGS: "/v2/embed",
}


@dataclass(frozen=True, slots=True)
class Asked:
    """A request.

    Attributes:
        arguments: The vendor's, with its secrets.
        passed: What of the body reaches litellm, by keyword.
        ignored: Names of the body's fields that do not.
        stream: Whether events are wanted.
        base64: Whether vectors are wanted as base64.
    """

    task: Task
    arguments: Mapping[str, Any] = field(repr=False)
    passed: Mapping[str, Any]
    ignored: frozenset[str]
    stream: bool
    base64: bool

    @property
    def model(self) -> str:
        """litellm's name of the model."""
        return str(self.arguments["model"])

    @property
    def keywords(self) -> dict[str, Any]:
        """What litellm is called with: one try, and without what the vendor does not know."""
        once = {"drop_params": True, "num_retries": 0, "max_retries": 0}
        # litellm would run tools of type "mcp" itself, and for any other tool import `mcp`, which we do not install
        # (tests/providers/test_litellm.py, test_tool_arguments_arrive_byte_for_byte).
        no_tools_of_its_own = {} if self.task is Task.EMBEDDINGS else {"_skip_mcp_handler": True}
        return {**self.passed, **self.arguments, **once, **no_tools_of_its_own}

    def dropped(self, supported: Collection[str]) -> list[str]:
        """The body's fields that do not reach the vendor, sorted.

        Args:
            supported: The fields of OpenAI's that litellm knows how to tell this vendor.
        """
        unknown = (self.passed.keys() & OPENAI_FIELDS) - set(supported)
        return sorted(self.ignored | unknown)


def read(task: Task, headers: Mapping[str, str], data: bytes) -> Asked:
    """Read a request.

    Raises:
        BadRequest: The body does not fit the task.
        InvalidParameter: The header with the vendor's arguments is missing or wrong.
    """
    arguments = litellm_bridge.read(headers.get(litellm_bridge.HEADER, ""))
    if str(arguments["model"]).startswith("cohere/") and "api_base" in arguments:
        arguments["api_base"] = str(arguments["api_base"]).rstrip("/") + _COHERE_PATH[task]
    try:
        body = orjson.loads(data)
    except ValueError as err:
        raise BadRequest("the body is not JSON") from err
    if not isinstance(body, dict):
        raise BadRequest("the body is not an object")
    allowed = EMBEDDINGS_FIELDS if task is Task.EMBEDDINGS else CHAT_FIELDS
    return Asked(
        task,
        arguments,
        {name: value for name, value in body.items() if name in allowed} | _subject(task, body),
        frozenset(body) - allowed - _OURS,
        stream=body.get("stream") is True,
        base64=body.get("encoding_format") == "base64",
    )


def _subject(task: Task, body: Mapping[str, Any]) -> dict[str, Any]:
    """What the model works on, and whether its answer is to come in pieces."""
    if task is Task.EMBEDDINGS:
        return {"input": embeddings.texts(body)}
    messages = [_message(body.get("prompt"))] if task is Task.COMPLETIONS else body.get("messages")
    if not (isinstance(messages, list) and messages and all(isinstance(message, dict) for message in messages)):
        raise BadRequest("'messages' must be a non-empty list of objects")
    return {
        "messages": messages,
        "stream": body.get("stream") is True,
        "stream_options": body.get("stream_options"),
    }


def _message(prompt: Any) -> dict[str, str]:
    """The chat message a prompt becomes: the vendors behind litellm have no completions any more."""
    text = prompt[0] if isinstance(prompt, list) and len(prompt) == 1 else prompt
    if not isinstance(text, str):
        raise BadRequest("'prompt' must be one text; this vendor answers one prompt at a time")
    return {"role": "user", "content": text}
