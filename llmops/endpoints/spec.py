"""What an endpoint is: the Databricks serving-endpoint document as a checked, frozen model.

The same document is a file in ``endpoint_configs/``, the body of a create, and what the store keeps.

Source: ../shared/reference/databricks_contract.md 1.4, 1.5
"""

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from llmops.endpoints.ai_gateway import AiGateway, InferenceTableConfig
from llmops.endpoints.document import Document, checked_name
from llmops.endpoints.log_policy import EndpointExtras, LogPolicy, read_extras
from llmops.endpoints.rate_limits import CallLimits, RateLimit
from llmops.endpoints.served_entity import ServedEntity
from llmops.protocol.task import Task

MAX_ENTITIES = 10
#: The deprecated names of a served model's fields, and what they are called now.
RENAMED = {"model_name": "entity_name", "model_version": "entity_version"}


class Route(Document):
    """The share of the traffic one served entity gets."""

    served_entity_name: str
    traffic_percentage: int = Field(ge=0, le=100)

    @model_validator(mode="before")
    @classmethod
    def _old_name(cls, given: Any) -> Any:
        if isinstance(given, dict) and "served_model_name" in given:
            rest = {key: value for key, value in given.items() if key != "served_model_name"}
            return {"served_entity_name": given["served_model_name"], **rest}
        return given


class TrafficConfig(Document):
    """How the traffic of an endpoint is split."""

    routes: list[Route]


def renamed(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config as it was sent, with the deprecated ``served_models`` under the names of today; they win if both are."""
    rest = {key: value for key, value in config.items() if key != "served_models"}
    if "served_models" not in config or "served_entities" in config:
        return rest
    models = config["served_models"] or []
    if isinstance(models, list):
        models = [
            {RENAMED.get(key, key): value for key, value in model.items()} if isinstance(model, dict) else model
            for model in models
        ]
    return {"served_entities": models, **rest}


class EndpointConfig(Document):
    """The served entities of an endpoint and their traffic.

    ``auto_capture_config`` is the old place of ``ai_gateway.inference_table_config`` and means the same here.
    """

    served_entities: Annotated[list[ServedEntity], Field(min_length=1, max_length=MAX_ENTITIES)]
    traffic_config: TrafficConfig | None = None
    auto_capture_config: InferenceTableConfig | None = None

    @model_validator(mode="before")
    @classmethod
    def _old_names(cls, given: Any) -> Any:
        return renamed(given) if isinstance(given, dict) else given

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [entity.name for entity in self.served_entities]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two served entities are named '{twice[0]}'; names must differ")
        tasks = sorted({str(entity.task) for entity in self.served_entities})
        if len(tasks) > 1:
            raise ValueError(f"served entities have different tasks ({', '.join(tasks)}); an endpoint has one")
        self._check_traffic(names)
        return self

    def _check_traffic(self, names: list[str]) -> None:
        if self.traffic_config is None:
            if len(names) > 1:
                raise ValueError("several served entities need a traffic_config that says each one's percentage")
            return
        routed = [route.served_entity_name for route in self.traffic_config.routes]
        strangers = [name for name in routed if name not in names]
        if strangers:
            raise ValueError(
                f"traffic_config routes to '{strangers[0]}', which is not a served entity: {', '.join(names)}"
            )
        left_out = [name for name in names if name not in routed]
        if left_out or len(routed) != len(set(routed)):
            raise ValueError(f"traffic_config needs one route for each served entity; see '{(left_out or routed)[0]}'")
        total = sum(route.traffic_percentage for route in self.traffic_config.routes)
        if total != 100:
            raise ValueError(f"the percentages of traffic_config.routes sum to {total}, not 100")

    @property
    def percentages(self) -> list[int]:
        """Each served entity's share of the traffic, in the entities' order; they sum to 100."""
        if self.traffic_config is None:
            return [100]
        shares = {route.served_entity_name: route.traffic_percentage for route in self.traffic_config.routes}
        return [shares[entity.name] for entity in self.served_entities]


class EndpointTag(Document):
    """A label of an endpoint."""

    key: str
    value: str | None = None


class EndpointSpec(Document):
    """An endpoint: a name, its config and its policies.

    ``route_optimized``, ``budget_policy_id``, ``email_notifications`` and ``telemetry_config`` have no meaning on
    one's own machine: accepted and echoed. ``rate_limits`` is the old place of ``ai_gateway.rate_limits``.
    """

    name: str
    config: EndpointConfig
    ai_gateway: AiGateway | None = None
    tags: list[EndpointTag] | None = None
    description: str | None = None
    route_optimized: bool | None = None
    budget_policy_id: str | None = None
    email_notifications: dict[str, Any] | None = None
    telemetry_config: dict[str, Any] | None = None
    rate_limits: CallLimits | None = None
    llmops: Annotated[EndpointExtras, BeforeValidator(read_extras)] = EndpointExtras()

    @field_validator("name")
    @classmethod
    def _checked_name(cls, value: str) -> str:
        return checked_name(value)

    @model_validator(mode="after")
    def _can_be_logged(self) -> Self:
        tables, policy = self._tables(), self.log_policy
        if len(set(tables)) > 1:
            raise ValueError(
                f"config.auto_capture_config names the table {tables[1]} and ai_gateway.inference_table_config"
                f" {tables[0]}; an endpoint has one, remove auto_capture_config"
            )
        wanted = "inference_table_config" if tables else "usage_tracking_config" if policy.usage_tracked else None
        if policy.log == "nothing" and wanted is not None:
            raise ValueError(f"llmops.log is 'nothing', and {wanted} is enabled; disable it, or log 'metadata'")
        return self

    @property
    def task(self) -> Task:
        """What the endpoint does."""
        return self.config.served_entities[0].task

    @property
    def has_engine(self) -> bool:
        """Whether a process of this machine must load a model before the endpoint can answer."""
        return any(entity.has_engine for entity in self.config.served_entities)

    @property
    def log_policy(self) -> LogPolicy:
        """What is recorded of this endpoint's interactions."""
        tracking = self.ai_gateway.usage_tracking_config if self.ai_gateway else None
        return LogPolicy(
            log=self.llmops.log,
            mask=self.llmops.mask_pii,
            payload_table=next(iter(self._tables()), None),
            sampling=self.llmops.table_sampling,
            usage_tracked=bool(tracking and tracking.enabled),
        )

    @property
    def limits(self) -> tuple[RateLimit, ...]:
        """Every rate limit, of the policies and of the deprecated key; all of them hold."""
        newer = (self.ai_gateway.rate_limits if self.ai_gateway else None) or []
        return (*newer, *(old.limit() for old in self.rate_limits or ()))

    def _tables(self) -> list[str]:
        """The payload tables the document names, the newer key's first."""
        gateway = self.ai_gateway.inference_table_config if self.ai_gateway else None
        named = [one.table(self.name) for one in (gateway, self.config.auto_capture_config) if one is not None]
        return [table for table in named if table is not None]
