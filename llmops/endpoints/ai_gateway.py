"""The ``ai_gateway`` block of an endpoint.

A limit or a guardrail that would be accepted and not enforced is worse than none: what this version does not enforce
it refuses, by name.

Source: ../shared/reference/databricks_contract.md 7.1
"""

from typing import Any, Self

from pydantic import model_validator

from llmops.endpoints.document import Document


class FallbackConfig(Document):
    """Whether another served entity answers when the first cannot."""

    enabled: bool


class UsageTrackingConfig(Document):
    """Accepted: usage is always tracked, in MLflow."""

    enabled: bool | None = None


class InferenceTableConfig(Document):
    """Accepted while it is off."""

    enabled: bool | None = None
    catalog_name: str | None = None
    schema_name: str | None = None
    table_name_prefix: str | None = None


class AiGateway(Document):
    """Policies of an endpoint."""

    fallback_config: FallbackConfig | None = None
    usage_tracking_config: UsageTrackingConfig | None = None
    inference_table_config: InferenceTableConfig | None = None
    rate_limits: list[dict[str, Any]] | None = None
    guardrails: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _enforced(self) -> Self:
        refused = [name for name in ("rate_limits", "guardrails") if getattr(self, name)]
        if self.inference_table_config is not None and self.inference_table_config.enabled:
            refused.append("inference_table_config.enabled")
        if refused:
            raise ValueError(f"{', '.join(refused)}: not enforced by this version, so refused; remove it")
        return self

    @property
    def fallback(self) -> bool:
        """Whether other served entities are tried when the first fails."""
        return self.fallback_config is not None and self.fallback_config.enabled
