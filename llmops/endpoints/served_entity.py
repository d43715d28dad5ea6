"""A served entity: one model of an endpoint, either a vendor's or a foundation model run here."""

import re
from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import field_validator, model_validator

from llmops.endpoints.document import Document, checked_name
from llmops.endpoints.external_model import ExternalModel
from llmops.endpoints.foundation_model import PREFIX, EntityExtras
from llmops.protocol.task import Task

WorkloadType = Literal[
    "CPU",
    "CPU_MEDIUM",
    "CPU_LARGE",
    "GPU_SMALL",
    "GPU_MEDIUM",
    "GPU_LARGE",
    "GPU_XLARGE",
    "GPU_XLARGE_8",
    "MULTIGPU_MEDIUM",
]
#: What an external model has none of.
NOT_EXTERNAL = ("entity_version", "workload_size", "workload_type", "scale_to_zero_enabled")
#: What a size of the workload stands for.
CONCURRENCY = ("min_provisioned_concurrency", "max_provisioned_concurrency")


def name_of(given: Mapping[str, Any]) -> Any:
    """The name of a served entity as it was sent: its own, else its model's without what names may not hold."""
    if given.get("name"):
        return given["name"]
    external = given.get("external_model")
    if isinstance(external, dict) and external.get("name"):
        return re.sub(r"[^\w-]", "-", str(external["name"]))[:63]
    parts = [str(given[key]) for key in ("entity_name", "entity_version") if given.get(key)]
    return re.sub(r"[^\w-]", "-", "-".join(parts))[:63]


class ServedEntity(Document):
    """One model of an endpoint.

    What says how much of a cluster it gets (``workload_*``, ``*_provisioned_*``, ``provisioned_model_units``,
    ``scale_to_zero_enabled``, ``burst_scaling_enabled``) and what its container is given (``environment_vars``,
    ``instance_profile_arn``) has no meaning on one's own machine: accepted and echoed.
    """

    name: str = ""
    entity_name: str | None = None
    entity_version: str | None = None
    external_model: ExternalModel | None = None
    workload_size: Literal["Small", "Medium", "Large"] | None = None
    workload_type: WorkloadType | None = None
    scale_to_zero_enabled: bool | None = None
    min_provisioned_throughput: int | None = None
    max_provisioned_throughput: int | None = None
    min_provisioned_concurrency: int | None = None
    max_provisioned_concurrency: int | None = None
    provisioned_model_units: int | None = None
    burst_scaling_enabled: bool | None = None
    environment_vars: dict[str, str] | None = None
    instance_profile_arn: str | None = None
    llmops: EntityExtras = EntityExtras()

    @model_validator(mode="before")
    @classmethod
    def _default_name(cls, given: Any) -> Any:
        return {**given, "name": name_of(given)} if isinstance(given, dict) else given

    @field_validator("name")
    @classmethod
    def _checked_name(cls, value: str) -> str:
        return checked_name(value)

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (self.external_model is None) == (self.entity_name is None):
            raise ValueError("needs exactly one of external_model (a vendor's API) and entity_name (a model run here)")
        if self.external_model is not None:
            self._check_external(self.external_model)
        elif self.entity_name is not None and not self.entity_name.startswith(PREFIX):
            raise ValueError(
                f"entity_name '{self.entity_name}': registered models are not served by this version;"
                f" a foundation model is named '{PREFIX}<name>'"
            )
        else:
            self._check_foundation()
        return self

    @model_validator(mode="after")
    def _one_size(self) -> Self:
        ranges = [key for key in CONCURRENCY if getattr(self, key) is not None]
        if self.workload_size is not None and ranges:
            raise ValueError(f"workload_size and {ranges[0]} say the same; keep one")
        return self

    def _check_external(self, model: ExternalModel) -> None:
        extras = self.llmops
        own = [key for key in NOT_EXTERNAL if getattr(self, key) is not None]
        if own:
            raise ValueError(f"{own[0]} is for a model that runs here; an external model has none, remove it")
        named = [key for key in ("engine", "source", "task", "model") if getattr(extras, key) is not None]
        if named:
            raise ValueError(f"llmops.{named[0]} is for foundation models; an external model names it itself")
        if extras.vendor is not None and model.provider != "custom":
            raise ValueError(f"llmops.vendor goes with provider 'custom', not '{model.provider}'")
        custom = model.custom_provider_config
        url = (custom and custom.custom_provider_url) or extras.vendor or extras.api_base
        if model.provider == "custom" and not url:
            raise ValueError("provider 'custom' needs custom_provider_config.custom_provider_url, or llmops.vendor")

    def _check_foundation(self) -> None:
        extras = self.llmops
        if extras.engine is None:
            raise ValueError("llmops.engine is missing: demo, llama_cpp or openai_compatible")
        if extras.engine == "llama_cpp" and not extras.source:
            raise ValueError("engine 'llama_cpp' needs llmops.source: a path or hf://org/repo/file.gguf")
        if extras.engine == "openai_compatible" and not (extras.api_base or extras.vendor):
            raise ValueError("engine 'openai_compatible' needs llmops.api_base, for example http://127.0.0.1:8000/v1")

    @property
    def task(self) -> Task:
        """What this entity does; chat where a foundation model does not say."""
        return self.external_model.task if self.external_model else self.llmops.task or Task.CHAT

    @property
    def model(self) -> str:
        """The name the upstream or the engine knows the model by."""
        if self.external_model:
            return self.external_model.name
        return self.llmops.model or (self.entity_name or "").removeprefix(PREFIX)

    @property
    def has_engine(self) -> bool:
        """Whether a process of this machine must load its model."""
        return self.llmops.engine == "llama_cpp"
