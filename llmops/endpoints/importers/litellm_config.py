"""Endpoints of litellm's ``config.yaml`` (`litellm --config config.yaml`).

Entries with one ``model_name`` become the served entities of one endpoint; traffic is split as litellm's default
strategy does: by ``weight``, else by ``rpm``, else by ``tpm``, else evenly.

Source: https://docs.litellm.ai/docs/proxy/configs, https://docs.litellm.ai/docs/proxy/reliability;
litellm/types/router.py GenericLiteLLMParams, litellm/router_strategy/simple_shuffle.py (1.106.2)
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmops.endpoints.importers import entity
from llmops.endpoints.importers.foreign import Document, Harvest, Part, config

#: What ``litellm_params`` calls our words.
_KEYS = {"aws_region": "aws_region_name"}
_TASKS = {
    None: "llm/v1/chat",
    "chat": "llm/v1/chat",
    "completion": "llm/v1/completions",
    "embedding": "llm/v1/embeddings",
}
#: Models that litellm knows without their provider.
_BARE = (
    (re.compile(r"(gpt-|chatgpt-|o\d|text-embedding-|ft:gpt)"), "openai"),
    (re.compile(r"claude-"), "anthropic"),
    (re.compile(r"(command|embed-)"), "cohere"),
    (re.compile(r"gemini-"), "gemini"),
)
_WEIGHTS = ("weight", "rpm", "tpm")
_LONGEST_S = 3600.0


@dataclass(frozen=True, slots=True)
class Deployment:
    """One entry of the list of models.

    Attributes:
        weights: What litellm may weigh it by, in the order it does.
    """

    entity: Document
    weights: tuple[float, ...]
    place: str


def harvest(document: Mapping[str, Any]) -> Harvest:
    """Make endpoints of a proxy's config."""
    found = Harvest()
    whole = Part(document, "", found)
    groups: dict[str, list[Deployment]] = {}
    for part in whole.parts("model_list"):
        name = part.text("model_name") or "model"
        deployment = _deployment(name, part)
        if deployment is not None:
            groups.setdefault(name, []).append(deployment)
    settings = [whole.part(section) for section in ("litellm_settings", "router_settings", "general_settings")]
    fallbacks: dict[str, list[str]] = {}
    for section in settings:
        if section.place != "general_settings":
            fallbacks |= _fallbacks(section, groups)
        section.close()
    for name, group in groups.items():
        _keep(name, group, [one for other in fallbacks.get(name, ()) for one in groups[other]], found)
    whole.close()
    return found


def _keep(name: str, group: list[Deployment], helpers: list[Deployment], found: Harvest) -> None:
    """Keep an endpoint: its own deployments share the traffic, the helpers answer when those cannot."""
    weighed = [[one.weights[number] for one in group] for number in range(len(_WEIGHTS))]
    shares = next((weights for weights in weighed if sum(weights) > 0), [1.0] * len(group))
    place, entities = group[0].place, [one.entity for one in (*group, *helpers)]
    document = {"name": name, "config": config(entities, shares + [0.0] * len(helpers), found, place)}
    if helpers:
        document["ai_gateway"] = {"fallback_config": {"enabled": True}}
    found.keep(document, place)


def _deployment(name: str, part: Part) -> Deployment | None:
    params, about = part.part("litellm_params"), part.part("model_info")
    mode, model = about.text("mode"), params.text("model") or ""
    if "*" in name + model:
        part.harvest.leave(part.place, "a wildcard has no counterpart here; name each model")
        return None
    if mode not in _TASKS:
        part.harvest.leave(about.at("mode"), f"mode '{mode}' is not served; '{name}' is left out")
        return None
    provider, model = _provider(model, params.text("custom_llm_provider"))
    task = _TASKS[mode]
    if provider == "text-completion-openai":
        provider, task = "openai", "llm/v1/completions"
    make = entity.PROVIDERS.get(provider)
    if make is None or not model:
        part.harvest.leave(params.at("model"), f"provider '{provider}' is not served; '{name}' is left out")
        return None
    made = make(entity.Model(model, task, params, _KEYS))
    if made is None:
        return None
    _limit_time(params, made)
    weights = tuple(params.number(key) or part.number(key) or 0.0 for key in _WEIGHTS)
    for key in ("rpm", "tpm"):
        for where in (params, part):
            if key in where:
                where.harvest.leave(
                    where.at(key),
                    "is a share of the traffic here; limits are an endpoint's ai_gateway.rate_limits",
                )
                where.skip(key)
    part.skip("weight")
    params.close("has no counterpart here; a caller may send parameters of the model")
    about.close()
    part.close()
    return Deployment(made, weights, part.place)


def _provider(model: str, stated: str | None) -> tuple[str, str]:
    """Provider and model of ``provider/model``; a bare model belongs to whom litellm would ask."""
    first, slash, rest = model.partition("/")
    if stated is not None:
        return stated, rest if slash and first == stated else model
    if slash and (first in entity.PROVIDERS or first == "text-completion-openai"):
        return first, rest
    if slash:
        return first, ""
    return next((provider for known, provider in _BARE if known.match(model)), model), model


def _limit_time(params: Part, made: Document) -> None:
    """Carry over the time limits of one attempt."""
    limits = {}
    for key, ours in (("timeout", "total_s"), ("stream_timeout", "first_byte_s")):
        seconds = params.number(key)
        if seconds is not None:
            limits[ours] = min(seconds, _LONGEST_S)
    if limits:
        made["llmops"] = {**made.get("llmops", {}), "timeouts": limits}


def _fallbacks(section: Part, groups: Mapping[str, list[Deployment]]) -> dict[str, list[str]]:
    """Which groups answer for which, as far as they were carried over: ``fallbacks: [{a: [b, c]}]``."""
    found: dict[str, list[str]] = {}
    given = section.whole("fallbacks")
    for number, item in enumerate(given if isinstance(given, list) else []):
        for name, others in (item if isinstance(item, dict) else {}).items():
            place = f"{section.at('fallbacks')}[{number}].{name}"
            wanted = [other for other in others if isinstance(other, str)] if isinstance(others, list) else []
            known = [other for other in wanted if other in groups and other != name]
            if name in groups and known:
                found[name] = known
            for other in [*(other for other in wanted if other not in known), *([] if name in groups else [name])]:
                section.harvest.leave(place, f"'{other}' is not among the models that were carried over")
    return found
