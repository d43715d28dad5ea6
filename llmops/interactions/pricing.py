"""What an answer cost, by the price list litellm ships; litellm itself is never imported.

An unknown price is None, never 0: a zero would be summed up and believed.
"""

import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import orjson

from llmops.protocol.usage import Usage

logger = logging.getLogger(__name__)

#: Models that run on this machine.
_FREE = frozenset({"demo", "llama_cpp"})

#: Our provider names where litellm's prefix is another one. What is in neither is looked up by its own name.
_PREFIXES: Mapping[str, tuple[str, ...]] = {
    "amazon-bedrock": ("bedrock", "bedrock_converse"),
    "azure": ("azure", "azure_ai"),
    "azure-openai": ("azure", "azure_ai"),
    "cohere": ("cohere", "cohere_chat"),
    "ai21labs": ("ai21",),
    "databricks-model-serving": ("databricks",),
    "google-cloud-vertex-ai": ("vertex_ai", "gemini"),
    "palm": ("gemini",),
    "together": ("together_ai",),
}
_READ = ("litellm_provider", "input_cost_per_token", "output_cost_per_token", "cache_read_input_token_cost")
_TIER = re.compile(r"input_cost_per_token_above_(\d+)k_tokens")


class PriceList:
    """Prices of vendors' models, in US dollars for one token.

    Args:
        entries: By model name as litellm writes it, with or without a provider prefix; never changed.
    """

    def __init__(self, entries: Mapping[str, Mapping[str, Any]]) -> None:
        self._entries = entries
        self._warned: set[tuple[str, str]] = set()

    @classmethod
    def read(cls, path: Path | None) -> Self:
        """Read litellm's list; without a file nothing but local models has a price."""
        entries: dict[str, dict[str, Any]] = orjson.loads(path.read_bytes()) if path else {}
        # Most of the list is about other things; the shipper would carry 20 MB of it.
        return cls(
            {name: {key: entry[key] for key in entry if key.startswith(_READ)} for name, entry in entries.items()}
        )

    def price(self, model: str | None, provider: str | None, usage: Usage | None) -> float | None:
        """What these tokens cost.

        Args:
            model: As the vendor names it.
            provider: As the served entity names it.

        Returns:
            US dollars; 0.0 for local models. None where nothing was used, or no price is known: the latter is logged,
            once for each model.
        """
        if provider in _FREE:
            return 0.0
        if usage is None or not model or not provider:
            return None
        entry = next(self._found(model, provider), None)
        if entry is None:
            self._warn(model, provider)
            return None
        return _cost(entry, usage)

    def _found(self, model: str, provider: str) -> Iterator[Mapping[str, Any]]:
        prefixes = _PREFIXES.get(provider, (provider,))
        for name in (*(f"{prefix}/{model}" for prefix in prefixes), model):
            entry = self._entries.get(name, {})
            # One name can be sold by several vendors at different prices: the entry must be this vendor's.
            sold_by = str(entry.get("litellm_provider", "")).removeprefix("text-completion-")
            if "input_cost_per_token" in entry and sold_by.startswith(prefixes):
                yield entry

    def _warn(self, model: str, provider: str) -> None:
        if (provider, model) not in self._warned:
            self._warned.add((provider, model))
            logger.warning("event=price_unknown provider=%s model=%s cost_usd=null", provider, model)


def _cost(entry: Mapping[str, Any], usage: Usage) -> float:
    tier = _tier(entry, usage.input_tokens)
    fresh_price = entry[f"input_cost_per_token{tier}"]
    cached_price = _rate(entry, "cache_read_input_token_cost", tier, fresh_price)
    output_price = _rate(entry, "output_cost_per_token", tier, 0.0)
    cached = min(usage.cached_tokens or 0, usage.input_tokens)
    fresh = usage.input_tokens - cached
    return float(fresh * fresh_price + cached * cached_price + usage.output_tokens * output_price)


def _rate(entry: Mapping[str, Any], name: str, tier: str, default: float) -> Any:
    return entry.get(name + tier, entry.get(name, default))


def _tier(entry: Mapping[str, Any], input_tokens: int) -> str:
    """Long prompts have their own price: the suffix of the highest step below this one's length."""
    steps = (int(match[1]) for key in entry if (match := _TIER.fullmatch(key)))
    passed = max((step for step in steps if input_tokens > step * 1000), default=None)
    return "" if passed is None else f"_above_{passed}k_tokens"
