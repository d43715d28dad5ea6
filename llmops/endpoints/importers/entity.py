"""Served entities from what foreign gateways know of a model: its provider, its name, a key, an address.

Each function takes what it needs from the part of the file that describes the model, and returns a served entity, or
None after it has listed why there is none.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from llmops.endpoints.document import URL_PATTERN
from llmops.endpoints.foundation_model import PREFIX
from llmops.endpoints.importers.foreign import Document, Part

#: Vendors that speak OpenAI's wire, by the names MLflow and litellm have for them.
VENDORS: Mapping[str, str] = {
    "groq": "groq",
    "mistral": "mistral",
    "deepseek": "deepseek",
    "xai": "xai",
    "openrouter": "openrouter",
    "together_ai": "together",
    "togetherai": "together",
    "fireworks_ai": "fireworks",
    "cerebras": "cerebras",
    "nvidia_nim": "nvidia",
}
#: Servers of open models that need no key.
SERVERS: Mapping[str, str] = {"ollama": "ollama", "ollama_chat": "ollama", "hosted_vllm": "vllm", "vllm": "vllm"}
_BEDROCK = {"anthropic": "anthropic", "cohere": "cohere", "ai21": "ai21labs", "amazon": "amazon", "meta": "meta"}


@dataclass(frozen=True, slots=True)
class Model:
    """A model of a foreign file.

    Attributes:
        name: The vendor's name of it.
        task: ``llm/v1/chat`` and the like.
        part: Where its key and address are.
        keys: What the file calls things: ``api_key``, ``api_base`` and so on, by our word.
    """

    name: str
    task: str
    part: Part
    keys: Mapping[str, str]

    def text(self, word: str) -> str | None:
        """What the file says of a thing."""
        return self.part.text(self.keys.get(word, word))

    def at(self, word: str) -> str:
        """The place where the file says it, or would."""
        return self.part.at(self.keys.get(word, word))

    def secret(self, word: str, scope: str, default: str | None = None) -> str | None:
        """The reference of a key; without one, of the variable that the foreign gateway would look in."""
        found = self.part.secret(self.keys.get(word, word), scope)
        if found is None and default is not None:
            return self.part.harvest.reference(f"${default}", self.at(word), scope)
        return found

    def base(self) -> str | None:
        """The address, if it is one that a document can hold."""
        value = self.text("api_base")
        if value is None or re.fullmatch(URL_PATTERN, value):
            return value
        # Not repeated: an address may hold a password.
        self.part.harvest.leave(self.at("api_base"), "is not the plain URL of a server; write the address yourself")
        return None

    def external(self, provider: str, config_key: str, config: Document, extras: Document | None = None) -> Document:
        """A served entity of a vendor."""
        stated = {key: value for key, value in config.items() if value is not None}
        model = {"name": self.name, "provider": provider, "task": self.task, **({config_key: stated} if stated else {})}
        more = {key: value for key, value in (extras or {}).items() if value is not None}
        return {"name": self.name, "external_model": model, **({"llmops": more} if more else {})}

    def leave(self, reason: str) -> None:
        """List the model itself as left behind."""
        self.part.harvest.leave(self.part.place, reason)


def openai(model: Model) -> Document | None:
    """OpenAI, or a server that speaks as it does."""
    config = {
        "openai_api_key": model.secret("api_key", "openai", "OPENAI_API_KEY"),
        "openai_api_base": model.base(),
        "openai_organization": model.text("organization"),
    }
    return model.external("openai", "openai_config", config)


def azure(model: Model) -> Document | None:
    """OpenAI at Azure; the deployment has the model's name where it is not given."""
    config = {
        "openai_api_type": "azure",
        "openai_api_key": model.secret("api_key", "azure", "AZURE_API_KEY"),
        "openai_api_base": model.base(),
        "openai_api_version": model.text("api_version"),
        "openai_deployment_name": model.text("deployment") or model.name,
    }
    return model.external("openai", "openai_config", config)


def bedrock(model: Model) -> Document | None:
    """Amazon Bedrock with access keys."""
    name = re.sub(r"^(converse|converse_like|invoke)/", "", model.name)
    makers = [maker for word, maker in _BEDROCK.items() if word in re.split(r"[./:]", name)]
    if not makers:
        model.leave("is a Bedrock model whose maker its name does not say")
        return None
    config = {
        "aws_region": model.text("aws_region"),
        "bedrock_provider": makers[0],
        "aws_access_key_id": model.secret("aws_access_key_id", "aws", "AWS_ACCESS_KEY_ID"),
        "aws_secret_access_key": model.secret("aws_secret_access_key", "aws", "AWS_SECRET_ACCESS_KEY"),
    }
    if config["aws_region"] is None:
        model.leave(f"needs {model.at('aws_region')}; the region is not in the file")
        return None
    entity = model.external("amazon-bedrock", "amazon_bedrock_config", config)
    entity["external_model"]["name"] = entity["name"] = name
    return entity


def vertex(model: Model) -> Document | None:
    """Google Vertex AI with the key file of a service account."""
    config = {
        "project_id": model.text("vertex_project"),
        "region": model.text("vertex_location"),
        "private_key": model.secret("vertex_credentials", "google-vertex"),
    }
    missing = [key for key, value in config.items() if value is None]
    if missing:
        model.leave(f"needs {', '.join(missing)} of google_cloud_vertex_ai_config; the file does not say")
        return None
    return model.external("google-cloud-vertex-ai", "google_cloud_vertex_ai_config", config)


def databricks(model: Model) -> Document | None:
    """A Databricks workspace."""
    base = model.base()
    if base is None:
        model.leave(f"needs {model.at('api_base')}; the workspace's URL is not in the file")
        return None
    config = {
        "databricks_workspace_url": re.sub(r"/serving-endpoints/?$", "", base),
        "databricks_api_token": model.secret("api_key", "databricks", "DATABRICKS_API_KEY"),
    }
    return model.external("databricks-model-serving", "databricks_model_serving_config", config)


def _keyed(provider: str, config_key: str, field: str, variable: str) -> Callable[[Model], Document | None]:
    """A vendor that needs one key."""

    def entity(model: Model) -> Document | None:
        config = {field: model.secret("api_key", provider, variable)}
        # MLflow's addresses end in the version, which the bridge adds.
        base = re.sub(r"/v1/?$", "", model.base() or "") or None
        return model.external(provider, config_key, config, {"api_base": base})

    return entity


def vendor(name: str, variable: str) -> Callable[[Model], Document | None]:
    """A vendor that speaks OpenAI's wire, by its name in `llmops.providers.vendors`."""

    def entity(model: Model) -> Document | None:
        token = model.secret("api_key", name, variable)
        config = {"bearer_token_auth": {"token": token}}
        return model.external("custom", "custom_provider_config", config, {"vendor": name, "api_base": model.base()})

    return entity


def server(name: str) -> Callable[[Model], Document | None]:
    """A server of open models that runs already."""

    def entity(model: Model) -> Document | None:
        base = model.base()
        if base is not None and name == "ollama":
            base = re.sub(r"(/v1)?/?$", "/v1", base)
        if "api_key" in model.part:
            token = model.secret("api_key", name)
            config = {"bearer_token_auth": {"token": token}}
            return model.external("custom", "custom_provider_config", config, {"vendor": name, "api_base": base})
        extras: dict[str, Any] = {"engine": "openai_compatible", "vendor": name, "task": model.task}
        extras |= {"model": model.name} | ({"api_base": base} if base else {})
        return {"name": model.name, "entity_name": PREFIX + model.name, "llmops": extras}

    return entity


#: By the foreign gateways' names of providers.
PROVIDERS: Mapping[str, Callable[[Model], Document | None]] = {
    "openai": openai,
    "azure": azure,
    "bedrock": bedrock,
    "amazon-bedrock": bedrock,
    "vertex_ai": vertex,
    "databricks": databricks,
    "databricks-model-serving": databricks,
    "anthropic": _keyed("anthropic", "anthropic_config", "anthropic_api_key", "ANTHROPIC_API_KEY"),
    **dict.fromkeys(("cohere", "cohere_chat"), _keyed("cohere", "cohere_config", "cohere_api_key", "COHERE_API_KEY")),
    **dict.fromkeys(
        ("ai21", "ai21_chat", "ai21labs"), _keyed("ai21labs", "ai21labs_config", "ai21labs_api_key", "AI21_API_KEY")
    ),
    **dict.fromkeys(("gemini", "palm"), _keyed("palm", "palm_config", "palm_api_key", "GEMINI_API_KEY")),
    **{foreign: vendor(ours, f"{foreign.upper()}_API_KEY") for foreign, ours in VENDORS.items()},
    **{foreign: server(ours) for foreign, ours in SERVERS.items()},
}
