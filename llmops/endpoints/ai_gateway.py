"""The ``ai_gateway`` block of an endpoint.

A guardrail that would be accepted and not enforced is worse than none: what this version does not enforce it refuses,
by name.

Source: ../shared/reference/databricks_contract.md 7.1
"""

import re
from typing import Annotated, Any, Self

from pydantic import AfterValidator, model_validator

from llmops.endpoints.document import Document
from llmops.endpoints.rate_limits import RateLimits

_PAYLOAD = "_payload"
#: A part of a table's name becomes a directory, and a file system takes 255 bytes for one.
_LONGEST = 255 - len(_PAYLOAD)
_NAME = re.compile(r"[A-Za-z0-9_-]+")


def _table_name(value: str) -> str:
    if not _NAME.fullmatch(value) or len(value) > _LONGEST:
        raise ValueError(f"'{value[:80]}' is not a name: 1 to {_LONGEST} letters, digits, dashes and underscores")
    return value


TableName = Annotated[str, AfterValidator(_table_name)]


class FallbackConfig(Document):
    """Whether another served entity answers when the first cannot."""

    enabled: bool


class UsageTrackingConfig(Document):
    """Whether each interaction is a row of the usage table; MLflow has its tokens and cost either way."""

    enabled: bool | None = None


class InferenceTableConfig(Document):
    """The table that request and response of each interaction go to.

    Attributes:
        table_name_prefix: The table is ``<prefix>_payload``; default: the endpoint's name.
    """

    enabled: bool | None = None
    catalog_name: TableName | None = None
    schema_name: TableName | None = None
    table_name_prefix: TableName | None = None

    @model_validator(mode="after")
    def _has_a_place(self) -> Self:
        missing = [key for key in ("catalog_name", "schema_name") if getattr(self, key) is None]
        if self.enabled and missing:
            raise ValueError(f"{' and '.join(missing)}: needed where the inference table is enabled")
        return self

    def table(self, endpoint: str) -> str | None:
        """The full name of the payload table of an endpoint; None where it is off."""
        if not self.enabled:
            return None
        return f"{self.catalog_name}.{self.schema_name}.{self.table_name_prefix or endpoint}{_PAYLOAD}"


class AiGateway(Document):
    """Policies of an endpoint."""

    fallback_config: FallbackConfig | None = None
    usage_tracking_config: UsageTrackingConfig | None = None
    inference_table_config: InferenceTableConfig | None = None
    rate_limits: RateLimits | None = None
    guardrails: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _enforced(self) -> Self:
        if self.guardrails:
            raise ValueError("guardrails: not enforced by this version, so refused; remove it")
        return self

    @property
    def fallback(self) -> bool:
        """Whether other served entities are tried when the first fails."""
        return self.fallback_config is not None and self.fallback_config.enabled
