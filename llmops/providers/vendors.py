"""Who speaks OpenAI's wire: one row each, and how an entity becomes a place to send requests to.

Two vendors that differ only by data differ by a row here. Address and header names come from this table and from the
endpoint's document, never from a request.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qs, quote, urlsplit

from llmops.endpoints.external_model import CustomProviderConfig, OpenAiConfig
from llmops.endpoints.served_entity import ServedEntity
from llmops.protocol.task import PATH, Task

#: Base URLs of the vendors and open-model servers that `llmops.vendor` can name.
BASES: Mapping[str, str] = {
    "vllm": "http://127.0.0.1:8000/v1",
    "ollama": "http://127.0.0.1:11434/v1",
    "groq": "https://api.groq.com/openai/v1",
    "mistral": "https://api.mistral.ai/v1",
    "deepseek": "https://api.deepseek.com/v1",
    "xai": "https://api.x.ai/v1",
    "openrouter": "https://openrouter.ai/api/v1",
    "together": "https://api.together.xyz/v1",
    "fireworks": "https://api.fireworks.ai/inference/v1",
    "cerebras": "https://api.cerebras.ai/v1",
    "nvidia": "https://integrate.api.nvidia.com/v1",
}
OPENAI_BASE = "https://api.openai.com/v1"
#: What nearly every server calls the limit of an answer, and what OpenAI does since its models reason.
MAX_TOKENS, _MAX_COMPLETION_TOKENS = "max_tokens", "max_completion_tokens"
#: OpenAI's models, whose newer ones refuse the older name; Azure knows the newer one since this version of its API.
_OPENAI_HOSTS = (".openai.com", ".openai.azure.com", ".cognitiveservices.azure.com")
_NEWER = "2024-09"
#: Who answers 400 to reasoning that comes back in a message.
_NO_REASONING = (*_OPENAI_HOSTS, ".groq.com", ".cerebras.ai", ".mistral.ai", ".databricks.com", ".azuredatabricks.net")
#: Addresses that this table names, and no document.
_PUBLIC = tuple(f"{base}/" for base in (*BASES.values(), OPENAI_BASE) if base.startswith("https://"))
#: External-model providers of the contract that speak OpenAI's wire; the others go over the litellm bridge.
SPOKEN = frozenset({"openai", "databricks-model-serving", "custom"})


@dataclass(frozen=True, slots=True)
class Target:
    """Where the requests of one served entity go.

    Attributes:
        url: Whole URL of the task.
        headers: Sent with every request; no secret among them.
        secret_header: The header that carries the key, and what stands before it (``Bearer ``); None for no key.
        reference: The secret reference of the key; None for no key.
    """

    url: str
    headers: Mapping[str, str]
    secret_header: tuple[str, str] | None = None
    reference: str | None = None


BEARER = ("authorization", "Bearer ")


def target(entity: ServedEntity) -> Target:
    """Where an entity that speaks OpenAI's wire is reached.

    Args:
        entity: An external model of a provider in SPOKEN, or a foundation model of engine ``openai_compatible``.
    """
    extras, model = entity.llmops, entity.external_model
    base = (extras.api_base or BASES.get(extras.vendor or "", "")).rstrip("/")
    if model is None:
        return Target(base + PATH[entity.task], {})
    if isinstance(model.config, OpenAiConfig):
        return _openai(model.config, base, entity)
    if isinstance(model.config, CustomProviderConfig):
        return _custom(model.config, base, entity.task)
    config = model.config.plain()
    base = base or config["databricks_workspace_url"].rstrip("/") + "/serving-endpoints"
    return Target(base + PATH[entity.task], {}, BEARER, model.config.references()["databricks_api_token"])


def _openai(config: OpenAiConfig, base: str, entity: ServedEntity) -> Target:
    base = base or (config.openai_api_base or OPENAI_BASE).rstrip("/")
    if config.openai_api_type == "azure":
        deployment, version = quote(config.openai_deployment_name or ""), quote(config.openai_api_version or "")
        url = f"{base}/openai/deployments/{deployment}{PATH[entity.task]}?api-version={version}"
        return Target(url, {}, ("api-key", ""), config.openai_api_key)
    headers = {"openai-organization": config.openai_organization} if config.openai_organization else {}
    return Target(base + PATH[entity.task], headers, BEARER, config.openai_api_key)


def _custom(config: CustomProviderConfig, base: str, task: Task) -> Target:
    url = config.custom_provider_url or base + PATH[task]
    if config.bearer_token_auth is not None:
        return Target(url, {}, BEARER, config.bearer_token_auth.token)
    if config.api_key_auth is not None:
        return Target(url, {}, (config.api_key_auth.key.lower(), ""), config.api_key_auth.value)
    return Target(url, {})


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a server wants a body that was put into chat here.

    Attributes:
        limit: What it calls the limit of an answer.
        unsaid: Fields of a message that it refuses, or that nobody but litellm knows.
    """

    limit: str = MAX_TOKENS
    unsaid: frozenset[str] = frozenset({"thinking_blocks"})


#: The litellm bridge gives a vendor back what that vendor signed.
BRIDGED = Dialect(unsaid=frozenset())


def dialect(url: str) -> Dialect:
    """How the server of a URL wants a body that was put into chat here.

    Source: https://platform.openai.com/docs/api-reference/chat/create#chat-create-max_completion_tokens
    """
    host, query = urlsplit(url).hostname or "", urlsplit(url).query
    unsaid = Dialect().unsaid | ({"reasoning_content"} if f".{host}".endswith(_NO_REASONING) else set())
    version = parse_qs(query).get("api-version", [_NEWER])[0]
    newer = f".{host}".endswith(_OPENAI_HOSTS) and version >= _NEWER
    return Dialect(_MAX_COMPLETION_TOKENS if newer else MAX_TOKENS, unsaid)


def known(url: str) -> bool:
    """Whether a URL leads to a vendor of this table, and not to a place that a document names."""
    return f"{url}/".startswith(_PUBLIC)


def urls(entity: ServedEntity) -> Mapping[str, str]:
    """Every URL that an entity's document makes a place to send requests to, by field."""
    extras, model = entity.llmops, entity.external_model
    found = {"llmops.api_base": extras.api_base} if extras.api_base else {}
    if extras.vendor is not None and not extras.api_base and not known(f"{BASES[extras.vendor]}/"):
        found["llmops.vendor"] = BASES[extras.vendor]
    if model is not None:
        block = f"external_model.{model.CONFIGS[model.provider]}"
        given = {name: value for name, value in model.config.plain().items() if name.endswith(("_base", "_url"))}
        found.update({f"{block}.{name}": value for name, value in given.items()})
    return found
