"""Every vendor an external model can have, with a key of its own, in front of one upstream that tells what it was sent.

The upstream speaks each vendor's wire, and repeats the headers of the request wherever a vendor could.
"""

import html
import json
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote
from zlib import crc32

import orjson

from tests.canaries import Secret, secret, service_account
from tests.providers import anthropic_upstream
from tests.scripts import (
    JSON,
    chat,
    chat_stream,
    completion,
    completion_stream,
    document,
    embeddings,
    redirect,
    status,
    stream,
    whole,
)
from tests.upstream import refused_url
from tests.wire import Reply, Request, Script

SOURCES = ("environment", "mounted", "store")
CHAT, COMPLETIONS, EMBEDDINGS = "llm/v1/chat", "llm/v1/completions", "llm/v1/embeddings"
#: Where litellm chooses a wire by the name of the model.
_MODELS = {
    "cohere": "command-a",
    "cohere-embeddings": "embed-v4.0",
    "palm": "gemini-2.5-flash",
    "vertex": "gemini-2.5-flash",
    **dict.fromkeys(("bedrock", "bedrock-clear"), "anthropic.claude-3-sonnet-20240229-v1:0"),
}
#: Have an inference table each; one of each way to a model.
_IN_TABLES = ("openai", "anthropic")
#: What Google gives for a service account's key; a secret too, for an hour.
GRANTED = "ya29.canary-granted-Zk7_token"
#: So soon the silent upstream is given up on.
QUICK = {"first_byte_s": 0.3, "between_chunks_s": 0.3, "total_s": 0.3}


@dataclass(frozen=True)
class Keyed:
    """An endpoint of one external model.

    Attributes:
        secrets: Its keys; the first is the one that is sent.
        header: In which header the key arrives, and in what form; None where it only signs.
        document: What is created.
    """

    name: str
    task: str
    secrets: tuple[Secret, ...]
    header: tuple[str, str] | None
    document: Mapping[str, Any]

    @property
    def body(self) -> dict[str, Any]:
        """A request without its prompt's text."""
        return {} if self.task == EMBEDDINGS else {"max_tokens": 16}


def every_vendor(url: str) -> list[Keyed]:
    """One for each provider, form of authentication and task."""
    made: list[Keyed] = []

    def add(
        name: str,
        provider: str,
        config: Mapping[str, Any] | None,
        header: tuple[str, str],
        task: str = CHAT,
        **more: Any,
    ) -> None:
        key = secret(name, SOURCES[len(made) % 3])
        block = {f"{provider.replace('-', '_')}_config": _filled(config, key)} if config is not None else {}
        if provider == "custom" and config is not None:
            block = {"custom_provider_config": _filled(config, key)}
        made.append(_bird(name, provider, block, (key,), header, task, {"api_base": url, **more}))

    bearer = ("authorization", "Bearer {}")
    openai = {"openai_api_key": "KEY"}
    azure = {
        "openai_api_type": "azure",
        "openai_api_base": url,
        "openai_api_version": "1",
        "openai_deployment_name": "d",
    }
    add("openai", "openai", openai, bearer)
    add("completions", "openai", {**openai, "openai_organization": "aviary"}, bearer, COMPLETIONS)
    add("embeddings", "openai", openai, bearer, EMBEDDINGS)
    add("azure", "openai", {**openai, **azure}, ("api-key", "{}"))
    add("anthropic", "anthropic", {"anthropic_api_key": "KEY"}, ("x-api-key", "{}"))
    add("cohere", "cohere", {"cohere_api_key": "KEY", "cohere_api_base": url}, bearer)
    add("cohere-embeddings", "cohere", {"cohere_api_key": "KEY"}, bearer, EMBEDDINGS)
    add("ai21", "ai21labs", {"ai21labs_api_key": "KEY"}, bearer)
    add("palm", "palm", {"palm_api_key": "KEY"}, ("x-goog-api-key", "{}"))
    workspace = {"databricks_workspace_url": url, "databricks_api_token": "KEY"}
    add("databricks", "databricks-model-serving", workspace, bearer)
    add("bearer", "custom", {"bearer_token_auth": {"token": "KEY"}}, bearer)
    own_header = {"api_key_auth": {"key": "X-Keyed-Key", "value": "KEY"}}
    add("header", "custom", {**own_header, "custom_provider_url": f"{url}/chat/completions"}, ("x-keyed-key", "{}"))
    for vendor in ("groq", "mistral", "openrouter"):
        add(vendor, "custom", {"bearer_token_auth": {"token": "KEY"}}, bearer, vendor=vendor)
    return [*made, _bedrock(url), _vertex(url)]


def aside(url: str) -> list[Keyed]:
    """Endpoints that end in other ways: nobody there, no answer in time, and the next served entity after a failure."""
    key = secret("aside", "store")
    block = {"openai_config": {"openai_api_key": key.reference}}

    def entity(name: str, where: str, **more: Any) -> dict[str, Any]:
        return {**_entity(name, "openai", block, CHAT, {"api_base": where, **more})}

    routes = [{"served_entity_name": f"e{number}", "traffic_percentage": 0 if number else 100} for number in range(3)]
    entities = [entity("e0", refused_url()), entity("e1", url), entity("e2", url)]
    fallback = {
        "name": "fallback",
        "config": {"served_entities": entities, "traffic_config": {"routes": routes}},
        "ai_gateway": {"fallback_config": {"enabled": True}},
    }
    alone = {
        "refused": entity("refused", refused_url()),
        "silent": entity("silent", url, timeouts=QUICK),
    }
    documents = [fallback, *({"name": name, "config": {"served_entities": [one]}} for name, one in alone.items())]
    return [Keyed(one["name"], CHAT, (key,), ("authorization", "Bearer {}"), one) for one in documents]  # type: ignore[arg-type]


def in_clear(url: str) -> list[Keyed]:
    """Endpoints whose documents hold their keys: of each way to a model, at each depth, with one and with two."""
    keys = {name: secret(f"{name}-clear", "clear") for name in ("openai", "anthropic", "header", "bedrock", "second")}
    configs = {
        "openai": ("openai", {"openai_api_key_plaintext": keys["openai"].value}),
        "anthropic": ("anthropic", {"anthropic_api_key_plaintext": keys["anthropic"].value}),
        "header": ("custom", {"api_key_auth": {"key": "X-Keyed-Key", "value_plaintext": keys["header"].value}}),
        "bedrock": (
            "amazon-bedrock",
            {
                "aws_region": "eu-west-1",
                "bedrock_provider": "anthropic",
                "aws_access_key_id_plaintext": keys["bedrock"].value,
                "aws_secret_access_key_plaintext": keys["second"].value,
            },
        ),
    }
    headers = {
        "openai": ("authorization", "Bearer {}"),
        "anthropic": ("x-api-key", "{}"),
        "header": ("x-keyed-key", "{}"),
        "bedrock": ("authorization", "Credential={}"),
    }
    made = []
    for name, (provider, config) in configs.items():
        block = "custom_provider_config" if provider == "custom" else f"{provider.replace('-', '_')}_config"
        of = (keys[name], keys["second"]) if name == "bedrock" else (keys[name],)
        made.append(_bird(f"{name}-clear", provider, {block: config}, of, headers[name], CHAT, {"api_base": url}))
    return made


def _bedrock(url: str) -> Keyed:
    keys = secret("bedrock-id", "mounted"), secret("bedrock-secret", "store")
    config = {
        "aws_region": "eu-west-1",
        "bedrock_provider": "anthropic",
        "aws_access_key_id": keys[0].reference,
        "aws_secret_access_key": keys[1].reference,
    }
    block, extras = {"amazon_bedrock_config": config}, {"api_base": url}
    return _bird("bedrock", "amazon-bedrock", block, keys, ("authorization", "Credential={}"), CHAT, extras)


def _vertex(url: str) -> Keyed:
    key = service_account("vertex", "mounted", f"{url}/token")
    config = {"project_id": "aviary", "region": "europe-west1", "private_key": key.reference}
    block, extras = {"google_cloud_vertex_ai_config": config}, {"api_base": url}
    return _bird("vertex", "google-cloud-vertex-ai", block, (key,), None, CHAT, extras)


def _bird(
    name: str,
    provider: str,
    block: Mapping[str, Any],
    keys: tuple[Secret, ...],
    header: tuple[str, str] | None,
    task: str,
    extras: Mapping[str, Any],
) -> Keyed:
    config = {"served_entities": [_entity(name, provider, block, task, extras)]}
    tables = {"enabled": name in _IN_TABLES, "catalog_name": "main", "schema_name": "seen"}
    return Keyed(
        name,
        task,
        keys,
        header,
        {
            "name": name,
            "config": config,
            "ai_gateway": {"inference_table_config": tables},
        },
    )


def _entity(name: str, provider: str, block: Mapping[str, Any], task: str, extras: Mapping[str, Any]) -> dict[str, Any]:
    model = {"name": _MODELS.get(name, f"{name}-model"), "provider": provider, "task": task, **block}
    return {"name": name, "external_model": model, "llmops": dict(extras)}


def _filled(config: Mapping[str, Any], key: Secret) -> dict[str, Any]:
    filled: dict[str, Any] = json.loads(json.dumps(dict(config)).replace('"KEY"', json.dumps(key.reference)))
    return filled


def success() -> Script:
    """A success on the wire of the request, whose text repeats the request's headers."""
    return lambda request: _in_wire(request, _told(request))(request)


def _told(request: Request) -> str:
    """The headers of a request, and its URL, as JSON."""
    return json.dumps({**request.headers, "url": request.path})


def _in_wire(request: Request, text: str) -> Script:
    path, streamed = (
        request.path.partition("?")[0],
        b'"stream": true' in request.body or b'"stream":true' in request.body,
    )
    if path == "/token":
        return document({"access_token": GRANTED, "expires_in": 3600, "token_type": "Bearer"})
    if path.endswith("/v1/messages"):
        return anthropic_upstream.text_stream((text, ".")) if streamed else anthropic_upstream.text_reply(text)
    if path.endswith("/v2/chat"):
        return _cohere_stream(text) if streamed else document(_cohere(text))
    if path.endswith("/v2/embed"):
        billed = {"billed_units": {"input_tokens": 4}}
        return document({"id": text, "texts": ["a"], "embeddings": {"float": [[0.5, 1.0]]}, "meta": billed})
    if path.endswith("generateContent"):
        return document(_gemini(text))
    if path.endswith("streamGenerateContent"):
        return stream(b"data: " + orjson.dumps(_gemini(text)) + b"\n\n")
    if path.endswith("/converse"):
        return document(_converse(text))
    if path.endswith("/converse-stream"):
        return _converse_stream(text)
    if path.endswith("/embeddings"):
        return embeddings(model=text)
    if path.endswith("/chat/completions"):
        return chat_stream((text, "."), usage={"prompt_tokens": 1}) if streamed else chat(text)
    return completion_stream((text,)) if streamed else completion(text)


def _cohere(text: str) -> dict[str, Any]:
    said = {"role": "assistant", "content": [{"type": "text", "text": text}]}
    return {"id": "1", "finish_reason": "COMPLETE", "message": said, "usage": {"tokens": {"input_tokens": 1}}}


def _cohere_stream(text: str) -> Script:
    said = {"type": "content-delta", "index": 0, "delta": {"message": {"content": {"text": text}}}}
    end = {"type": "message-end", "delta": {"finish_reason": "COMPLETE", "usage": {"tokens": {"input_tokens": 1}}}}
    return stream(*(b"data: " + orjson.dumps(event) + b"\n\n" for event in (said, end)))


def _gemini(text: str) -> dict[str, Any]:
    said = {"content": {"parts": [{"text": text}], "role": "model"}, "finishReason": "STOP", "index": 0}
    counts = {"promptTokenCount": 1, "candidatesTokenCount": 1, "totalTokenCount": 2}
    return {"candidates": [said], "usageMetadata": counts}


def _converse(text: str) -> dict[str, Any]:
    said = {"message": {"role": "assistant", "content": [{"text": text}]}}
    counts = {"inputTokens": 1, "outputTokens": 1, "totalTokens": 2}
    return {"output": said, "stopReason": "end_turn", "usage": counts, "metrics": {"latencyMs": 1}}


def _converse_stream(text: str) -> Script:
    said = {"contentBlockIndex": 0, "delta": {"text": text}}
    events = {
        "messageStart": {"role": "assistant"},
        "contentBlockDelta": said,
        "contentBlockStop": {"contentBlockIndex": 0},
        "messageStop": {"stopReason": "end_turn"},
        "metadata": {"usage": {"inputTokens": 1, "outputTokens": 1, "totalTokens": 2}, "metrics": {"latencyMs": 1}},
    }
    body = b"".join(_amazon_event(kind, orjson.dumps(payload)) for kind, payload in events.items())
    return whole(body, content_type="application/vnd.amazon.eventstream")


def _amazon_event(kind: str, payload: bytes) -> bytes:
    """One event in Amazon's framing.

    Source: https://docs.aws.amazon.com/AmazonS3/latest/API/RESTSelectObjectAppendix.html
    """
    named = {":event-type": kind, ":content-type": JSON, ":message-type": "event"}
    headers = b"".join(
        bytes([len(name)]) + name.encode() + b"\x07" + struct.pack(">H", len(value)) + value.encode()
        for name, value in named.items()
    )
    prelude = struct.pack(">II", 16 + len(headers) + len(payload), len(headers))
    message = prelude + struct.pack(">I", crc32(prelude)) + headers + payload
    return message + struct.pack(">I", crc32(message))


def _refusal(code: int, *, body: str = "") -> Script:
    """An error that repeats the request's headers in its message and in its own headers."""

    def reply(request: Request) -> Reply:
        if request.path == "/token":
            return success()(request)
        told = _told(request)
        key = next((v for k, v in request.headers.items() if "canary" in v), "")
        headers = {"x-key": key, "www-authenticate": f'Bearer error="{key}"', "retry-after": key, "location": f"/{key}"}
        said = {"error": {"message": f"not with {told}", "type": "t", "code": key, "param": told}}
        if body == "html":
            page = f"<html><p>{html.escape(told)}</p>{html.escape(key).replace('/', '&#x2F;')} {key}</html>"
            return whole(page.encode(), code=code, content_type="text/html", headers=headers)(request)
        if body == "slashes":
            text = orjson.dumps(said).decode().replace("/", r"\/")
            return whole(text.encode(), code=code, headers=headers)(request)
        if body == "text":
            text = f"{quote(key, safe='')} {quote(key)} {key} {key!r} {json.dumps(told)}"
            return whole(text.encode(), code=code, content_type=f"text/plain; key={key}", headers=headers)(request)
        return status(code, said, headers)(request)

    return reply


def _first(text: str, kind: str = JSON) -> Script:
    """A text in which KEY is the key of the request, as an answer of status 200."""

    def reply(request: Request) -> Reply:
        if request.path == "/token":
            return success()(request)
        key = next((value for value in request.headers.values() if "canary" in value), "")
        filled = text.replace("KEY", json.dumps(key)[1:-1]).encode()
        return (whole(filled) if kind == JSON else stream(filled))(request)

    return reply


_EVENTS = "text/event-stream"
#: What the upstream answers every endpoint with, after `success`, and whether it is asked for a stream then.
MISHAPS: Mapping[str, tuple[Script, bool | None]] = {
    "unauthorized": (_refusal(401), None),
    "bad request": (_refusal(400, body="slashes"), False),
    "forbidden": (_refusal(403, body="text"), None),
    "failed": (_refusal(501, body="html"), True),
    "malformed": (_first('"KEY" is no answer'), False),
    "an error with 200": (_first('{"error": {"message": "KEY", "code": "KEY"}}'), False),
    "strange": (_first('{"choices": "KEY", "id": "KEY", "KEY": 1}'), False),
    "page": (_refusal(200, body="html"), True),
    "an error in the stream": (_first('data: {"error": {"message": "KEY"}}\n\n', kind=_EVENTS), True),
    "an event cut off": (_first('data: {"error": {"message": "KEY"}}', kind=_EVENTS), True),
    "a stream of something else": (_first("data: KEY\n\n", kind=_EVENTS), True),
    "a strange chunk": (_first('data: {"choices": [{"delta": {"content": "KEY"}}], "KEY": 1}\n\n', kind=_EVENTS), True),
    "moved": (lambda request: redirect(f"http://127.0.0.1:1/?{quote(_told(request))}")(request), False),
}


def asked(keyed: Keyed, prompt: str) -> Iterable[dict[str, Any]]:
    """The bodies a keyed is asked with: plain, and streamed where it can be."""
    if keyed.task == EMBEDDINGS:
        return ({"input": [prompt]},)
    said: dict[str, Any] = {"max_tokens": 16}
    said |= {"prompt": prompt} if keyed.task == COMPLETIONS else {"messages": [{"role": "user", "content": prompt}]}
    return (said, {**said, "stream": True})
