"""The worker's side of litellm: what a vendor's model is called there, and the header that carries it to the child.

The child (`llmops.providers.litellm`) keeps no secret: the vendor's arguments travel with every request, in one header.
Nothing here imports litellm.

Source: https://docs.litellm.ai/docs/providers
"""

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from llmops.errors import InvalidParameter

#: The header of a request to the child.
HEADER = "x-llmops-litellm"
#: The header of a request whose address came over REST: the networks it may lead to although they are not public.
NETWORKS = "x-llmops-networks"

Config = Mapping[str, str]
Arguments = dict[str, object]

#: What the owner of an endpoint should know about a provider.
NOTICES: Mapping[str, str] = {
    "palm": "Google ended the PaLM API; provider 'palm' is served by Gemini, so name a Gemini model",
}


@dataclass(frozen=True, slots=True)
class Vendor:
    """A vendor that needs one key.

    Attributes:
        prefix: Of the model's name in litellm.
        key: The field of the contract's config that holds the key.
        api_base: The vendor's own address. litellm would take one from its environment otherwise, and a key must not
            follow a stray variable.
    """

    prefix: str
    key: str
    api_base: str

    def arguments(self, model: str, config: Config) -> Arguments:
        """What litellm is called with."""
        return {"model": f"{self.prefix}/{model}", "api_key": config[self.key], "api_base": self.api_base}


def _cohere(model: str, config: Config) -> Arguments:
    api_base = config.get("cohere_api_base") or "https://api.cohere.com"
    return {"model": f"cohere/{model}", "api_key": config["cohere_api_key"], "api_base": api_base}


def _bedrock(model: str, config: Config) -> Arguments:
    vendor = config["bedrock_provider"].lower()
    vendor = {"ai21labs": "ai21"}.get(vendor, vendor)
    # Bedrock's own name, as in "anthropic.claude-v2", "eu.anthropic.claude-v2", "arn:aws:bedrock:…", or the short one.
    named = f"{vendor}." in model or model.startswith("arn:")
    return {
        "model": f"bedrock/{model}" if named else f"bedrock/{vendor}.{model}",
        "aws_region_name": config["aws_region"],
        "aws_access_key_id": config["aws_access_key_id"],
        "aws_secret_access_key": config["aws_secret_access_key"],
    }


def _vertex(model: str, config: Config) -> Arguments:
    try:
        account = json.loads(config["private_key"])
    except ValueError:
        account = None
    if not isinstance(account, dict) or "client_email" not in account:
        raise InvalidParameter(
            "google_cloud_vertex_ai_config.private_key must be the whole JSON key file of the service account: a bare"
            " private key does not say whose it is"
        )
    return {
        "model": f"vertex_ai/{model}",
        "vertex_project": config["project_id"],
        "vertex_location": config["region"],
        "vertex_credentials": account,
    }


VENDORS: Mapping[str, Callable[[str, Config], Arguments]] = {
    "anthropic": Vendor("anthropic", "anthropic_api_key", "https://api.anthropic.com").arguments,
    "ai21labs": Vendor("ai21_chat", "ai21labs_api_key", "https://api.ai21.com/studio/v1").arguments,
    "palm": Vendor("gemini", "palm_api_key", "https://generativelanguage.googleapis.com/v1beta").arguments,
    "cohere": _cohere,
    "amazon-bedrock": _bedrock,
    "google-cloud-vertex-ai": _vertex,
}


def arguments(provider: str, model: str, config: Config, api_base: str | None) -> Arguments:
    """What litellm is called with for an external model.

    Args:
        provider: As the contract names it.
        model: The vendor's name of the model.
        config: The provider's config of the contract, secrets resolved, without ``_plaintext``. Holds secrets, and so
            does what is returned.
        api_base: In place of the vendor's own address.

    Returns:
        ``model``, the credentials, and the address; JSON can hold them.

    Raises:
        InvalidParameter: litellm is not how this provider is reached, or its config lacks a field or holds a wrong one.

    Source: ../shared/reference/databricks_contract.md 3
    """
    if provider not in VENDORS:
        raise InvalidParameter(f"provider '{provider}' is not reached through litellm; known: {', '.join(VENDORS)}")
    try:
        found = VENDORS[provider](model, config)
    except KeyError as err:
        raise InvalidParameter(f"the config of provider '{provider}' needs {err.args[0]}") from err
    return {**found, "api_base": api_base} if api_base else found


def header(arguments: Mapping[str, object]) -> str:
    """Write arguments as the value of `HEADER`."""
    return base64.b64encode(json.dumps(arguments).encode()).decode()


def read(value: str) -> Arguments:
    """Read what `header` wrote.

    Raises:
        InvalidParameter: It is something else; the message does not repeat it.
    """
    try:
        found = json.loads(base64.b64decode(value, validate=True))
    except ValueError as err:
        raise InvalidParameter(f"header {HEADER} is not base64 of JSON") from err
    if not isinstance(found, dict) or not isinstance(found.get("model"), str):
        raise InvalidParameter(f"header {HEADER} is not an object with a model")
    return found
