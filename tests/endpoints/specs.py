"""Valid endpoint documents, as many as Hypothesis likes."""

from itertools import pairwise
from typing import Any

from hypothesis import strategies as st

from llmops.endpoints.external_model import ExternalModel

Document = dict[str, Any]

#: YAML takes some of these for something else, unless they are quoted.
_TRAPS = [
    "yes",
    "null",
    "1e3",
    "2023-05-15",
    "~",
    "- a",
    "a: b",
    "#x",
    "'",
    "ä\u2028b",
    "a\x85b",
    "\x85",
    "a\nb",
    " x ",
    "\u00a0",
    "🙂",
]
_WORDS = st.one_of(st.sampled_from(_TRAPS), st.text(st.characters(codec="utf-8"), min_size=1, max_size=12))
_NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,20}", fullmatch=True)
_REGIONS = st.from_regex(r"[a-z0-9-]{1,20}", fullmatch=True)
_URLS = st.sampled_from(["http://127.0.0.1:8000/v1", "https://host.example", "https://h:1/a/b"])
_REFERENCES = st.sampled_from(["{{secrets/a/b}}", "{{secrets/scope-1/key.x}}"])
_TASKS = st.sampled_from(["llm/v1/chat", "llm/v1/completions", "llm/v1/embeddings"])


def _some(optional: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[Document]:
    return st.fixed_dictionaries({}, optional=optional)


_CONFIGS: dict[str, st.SearchStrategy[Document]] = {
    "openai": st.one_of(
        st.fixed_dictionaries(
            {"openai_api_key": _REFERENCES},
            optional={"openai_organization": st.just("org-1"), "openai_api_base": _URLS},
        ),
        st.fixed_dictionaries(
            {
                "openai_api_type": st.just("azure"),
                "openai_api_key": _REFERENCES,
                "openai_api_base": _URLS,
                "openai_api_version": st.just("2023-05-15"),
                "openai_deployment_name": _WORDS,
            }
        ),
    ),
    "anthropic": st.fixed_dictionaries({"anthropic_api_key": _REFERENCES}),
    "cohere": st.fixed_dictionaries({"cohere_api_key": _REFERENCES}, optional={"cohere_api_base": _URLS}),
    "ai21labs": st.fixed_dictionaries({"ai21labs_api_key": _REFERENCES}),
    "palm": st.fixed_dictionaries({"palm_api_key": _REFERENCES}),
    "amazon-bedrock": st.fixed_dictionaries(
        {
            "aws_region": _REGIONS,
            "bedrock_provider": st.sampled_from(["anthropic", "Anthropic", "AI21Labs", "meta"]),
            "aws_access_key_id": _REFERENCES,
            "aws_secret_access_key": _REFERENCES,
        }
    ),
    "google-cloud-vertex-ai": st.fixed_dictionaries(
        {"project_id": _WORDS, "region": _REGIONS, "private_key": _REFERENCES}
    ),
    "databricks-model-serving": st.fixed_dictionaries(
        {"databricks_workspace_url": _URLS, "databricks_api_token": _REFERENCES}
    ),
    "custom": st.fixed_dictionaries(
        {"custom_provider_url": _URLS},
        optional={"bearer_token_auth": st.fixed_dictionaries({"token": _REFERENCES})},
    ),
}
PROVIDERS = tuple(_CONFIGS)
_COUNTS = st.integers(0, 2**31)
#: What is kept and told back, and has no meaning here; the first also for an external model.
_WITHOUT_MEANING: dict[str, st.SearchStrategy[Any]] = {
    "min_provisioned_throughput": _COUNTS,
    "max_provisioned_throughput": _COUNTS,
    "provisioned_model_units": _COUNTS,
    "burst_scaling_enabled": st.booleans(),
    "environment_vars": st.dictionaries(_WORDS, st.one_of(_WORDS, _REFERENCES), max_size=2),
    "instance_profile_arn": _WORDS,
}
_OF_A_CLUSTER: dict[str, st.SearchStrategy[Any]] = {
    "entity_version": _WORDS,
    "workload_size": st.sampled_from(["Small", "Medium", "Large"]),
    "workload_type": st.sampled_from(["CPU", "GPU_SMALL", "MULTIGPU_MEDIUM"]),
    "scale_to_zero_enabled": st.booleans(),
}
_CONCURRENCY = {"min_provisioned_concurrency": _COUNTS, "max_provisioned_concurrency": _COUNTS}
_TIMEOUTS = _some({"total_s": st.floats(0.5, 3600), "first_byte_s": st.integers(1, 3600)})


@st.composite
def _external(draw: st.DrawFn, name: str, task: str) -> Document:
    provider = draw(st.sampled_from(PROVIDERS))
    model: Document = {"name": draw(_WORDS), "provider": provider, "task": task}
    model[ExternalModel.CONFIGS[provider]] = draw(_CONFIGS[provider])
    more = {"llmops": _some({"timeouts": _TIMEOUTS}), **_WITHOUT_MEANING, **_CONCURRENCY}
    return {"name": name, "external_model": model, **draw(_some(more))}


@st.composite
def _foundation(draw: st.DrawFn, name: str, task: str) -> Document:
    engines: list[Document] = [
        {"engine": "demo"},
        {"engine": "openai_compatible", "vendor": "ollama"},
        {"engine": "openai_compatible", "api_base": "http://127.0.0.1:8000/v1", "model": draw(_WORDS)},
        {"engine": "llama_cpp", "source": "hf://org/repo/file.gguf", "context": 4096},
    ]
    more = draw(_some({"parallel": st.integers(1, 64), "timeouts": _TIMEOUTS}))
    extras = {**draw(st.sampled_from(engines)), "task": task, **more}
    # A size of the workload and a range of concurrency say the same.
    sized = draw(st.sampled_from([_OF_A_CLUSTER, _CONCURRENCY]))
    told = draw(_some({**_WITHOUT_MEANING, **sized}))
    return {"name": name, "entity_name": f"llmops.{name}", "llmops": extras, **told}


@st.composite
def _configs(draw: st.DrawFn) -> Document:
    names, task = draw(st.lists(_NAMES, min_size=1, max_size=4, unique=True)), draw(_TASKS)
    entities = [draw(st.one_of(_external(name, task), _foundation(name, task))) for name in names]
    if len(names) == 1 and draw(st.booleans()):
        return {"served_entities": entities}
    cuts = [0, *sorted(draw(st.lists(st.integers(0, 100), min_size=len(names) - 1, max_size=len(names) - 1))), 100]
    shares = [after - before for before, after in pairwise(cuts)]
    key = draw(st.sampled_from(["served_entity_name", "served_model_name"]))
    routes = [{key: name, "traffic_percentage": share} for name, share in zip(names, shares, strict=True)]
    table = draw(_some({"auto_capture_config": _CAPTURES}))
    return {"served_entities": entities, "traffic_config": {"routes": draw(st.permutations(routes))}, **table}


#: Not enabled: the endpoint may have another table.
_CAPTURES = _some(
    {"catalog_name": _NAMES, "schema_name": _NAMES, "table_name_prefix": _NAMES, "enabled": st.just(False)}
)
_TABLE = st.fixed_dictionaries(
    {"catalog_name": st.just("main"), "schema_name": st.just("logs")},
    optional={"enabled": st.booleans(), "table_name_prefix": _NAMES},
)
_PERIOD = {"renewal_period": st.just("minute")}
_UNITS = [{unit: st.integers(0, 2**63 - 1), **_PERIOD} for unit in ("calls", "tokens")]
_LIMITS = st.lists(
    st.one_of(
        *(st.fixed_dictionaries(unit, optional={"key": st.sampled_from(["endpoint", "user"])}) for unit in _UNITS),
        *(
            st.fixed_dictionaries({**unit, "key": st.sampled_from(["user", "user_group", "service_principal"])} | one)
            for unit in _UNITS
            for one in ({"principal": _NAMES},)
        ),
    ),
    max_size=5,
    unique_by=lambda one: ("calls" in one, one.get("key", "endpoint"), one.get("principal")),
)
_CALL_LIMITS = st.lists(
    st.fixed_dictionaries(_UNITS[0], optional={"key": st.sampled_from(["endpoint", "user"])}),
    max_size=2,
    unique_by=lambda one: one.get("key", "endpoint"),
)
_GATEWAYS = _some(
    {
        "fallback_config": st.fixed_dictionaries({"enabled": st.booleans()}),
        "usage_tracking_config": _some({"enabled": st.booleans()}),
        "inference_table_config": _TABLE,
        "rate_limits": _LIMITS,
    }
)
_TAGS = st.lists(
    st.fixed_dictionaries({"key": _WORDS}, optional={"value": _WORDS}), max_size=3, unique_by=lambda tag: tag["key"]
)
_EXTRAS = _some(
    {
        "log": st.sampled_from(["everything", "metadata"]),
        "mask_pii": st.booleans(),
        "retention_days": st.integers(1, 36_500),
        "table_sampling": st.floats(0, 1),
    }
)

#: Documents that are valid endpoints.
documents: st.SearchStrategy[Document] = st.fixed_dictionaries(
    {"name": _NAMES, "config": _configs()},
    optional={
        "ai_gateway": _GATEWAYS,
        "rate_limits": _CALL_LIMITS,
        "tags": _TAGS,
        "description": _WORDS,
        "route_optimized": st.booleans(),
        "budget_policy_id": _WORDS,
        "email_notifications": st.just({"on_update_failure": ["a@b.example"]}),
        "telemetry_config": st.just({"table_names": {"logs_table": "a.b.c"}}),
        "llmops": _EXTRAS,
    },
)
