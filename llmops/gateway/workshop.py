"""How a served entity becomes something that can be called: the one place that knows every provider."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from llmops.endpoints.detail import FAILED, READY, EntityState
from llmops.endpoints.external_model import ExternalModel
from llmops.endpoints.secrets import Secrets
from llmops.endpoints.served_entity import ServedEntity
from llmops.errors import EndpointNotReady, InvalidParameter
from llmops.gateway.table import LiveEntity
from llmops.protocol.task import PATH
from llmops.providers import litellm_bridge
from llmops.providers.children import BRIDGE, BehindChild, Children, engine_key, engine_state
from llmops.providers.demo import Demo
from llmops.providers.guarded import Checked, Guarded
from llmops.providers.openai_compatible import OpenAiCompatible, Place
from llmops.providers.provider import Limits, Provider
from llmops.providers.tokens import Tokenizer
from llmops.providers.upstream import Upstreams
from llmops.providers.veil import Veils
from llmops.providers.vendors import BRIDGED, SPOKEN, dialect, known, target, urls
from llmops.settings import Settings

Built = tuple[Provider, Callable[[], EntityState]]


@dataclass(frozen=True, slots=True)
class Workshop:
    """What served entities are built from; one for each worker.

    Attributes:
        guarded: The HTTP client for places that a config from REST names.
    """

    settings: Settings
    secrets: Secrets
    children: Children
    upstreams: Upstreams
    guarded: Guarded
    tokenizer: Tokenizer

    def build(self, endpoint: str, entity: ServedEntity, *, trusted: bool) -> LiveEntity:
        """Build one served entity of an endpoint.

        Args:
            trusted: Whether the operator's own file describes it; it may then lead anywhere.
        """
        model, extras = entity.external_model, entity.llmops
        if model is not None:
            provider, state = (
                self._spoken(entity, trusted=trusted)
                if model.provider in SPOKEN
                else self._bridged(entity, model, trusted=trusted)
            )
        elif extras.engine == "demo":
            provider, state = Demo(entity.task, entity.model, self.tokenizer), lambda: EntityState(READY)
        elif entity.has_engine:
            provider, state = self._local(endpoint, entity)
        else:
            provider, state = self._spoken(entity, trusted=trusted)
        named = extras.vendor or (model.provider if model else extras.engine) or ""
        limits = Limits(**extras.timeouts.model_dump(), stream_bytes=self.settings.stream_max_mb << 20)
        return LiveEntity((entity.name, named, entity.model), provider, limits, state)

    async def check(self, entities: Sequence[ServedEntity]) -> None:
        """Refuse a config from REST that leads where nothing may go.

        Raises:
            InvalidParameter: Names the field, what its address is, and the setting that allows it.
        """
        for number, entity in enumerate(entities):
            for field, url in urls(entity).items():
                if self._free(url):
                    continue
                try:
                    await self.guarded.egress.check(url)
                except EndpointNotReady as err:
                    raise InvalidParameter(f"config.served_entities[{number}].{field}: {err.message}") from None

    def _free(self, url: str) -> bool:
        """Whether a URL that a config from REST leads to may be called like one of a file."""
        return known(url) or self.guarded.egress.trusts(url)

    def _spoken(self, entity: ServedEntity, *, trusted: bool) -> Built:
        """A model behind OpenAI's wire; its key is read at every call."""
        to = target(entity)
        upstreams, veils = self.upstreams if trusted or self._free(to.url) else self.guarded, Veils(entity.name)

        def place() -> Place:
            if to.reference is None or to.secret_header is None:
                return Place(to.url, to.headers)
            (header, scheme), secret = to.secret_header, self.secrets.get(to.reference)
            return Place(to.url, {**to.headers, header: scheme + secret}, veils.over(secret))

        references = [to.reference] if to.reference else []
        provider = OpenAiCompatible(entity.name, entity.model, place, upstreams, dialect=dialect(to.url))
        return provider, lambda: self._keys(references)

    def _bridged(self, entity: ServedEntity, model: ExternalModel, *, trusted: bool) -> Built:
        """A model of a vendor with a wire of its own, behind the litellm bridge."""
        plain, references = model.config.plain(), model.config.references()
        egress, base = self.guarded.egress, next(iter(urls(entity).values()), None)
        confined = base is not None and not trusted and not egress.trusts(base)
        veils = Veils(entity.name)
        rule = {litellm_bridge.NETWORKS: ",".join(map(str, egress.networks))} if confined else {}

        def place() -> Place:
            keys = {field: self.secrets.get(reference) for field, reference in references.items()}
            config = {**plain, **keys}
            arguments = litellm_bridge.arguments(model.provider, model.name, config, entity.llmops.api_base)
            headers = {litellm_bridge.HEADER: litellm_bridge.header(arguments), **rule, **self._authorization()}
            url = f"{self.children.address(BRIDGE)}/v1{PATH[model.task]}"
            return Place(url, headers, veils.over(*keys.values()))

        def state() -> EntityState:
            child = self.children.get(BRIDGE)
            if child is not None and child.state == "failed":
                return EntityState(FAILED, child.message or "")
            return self._keys(references.values())

        inner = OpenAiCompatible(entity.name, entity.model, place, self.upstreams, dialect=BRIDGED)
        behind = BehindChild(self.children, BRIDGE, inner, state)
        if base is None or not confined:
            return behind, state
        return Checked(behind, egress, base, entity.name), state

    def _local(self, endpoint: str, entity: ServedEntity) -> Built:
        """A model of the local engine."""
        key = engine_key(entity)

        def place() -> Place:
            return Place(f"{self.children.address(key)}/v1{PATH[entity.task]}", self._authorization())

        def state() -> EntityState:
            return engine_state(endpoint, entity, self.children.get(key), self.settings.model_dir)

        inner = OpenAiCompatible(entity.name, entity.model, place, self.upstreams)
        return BehindChild(self.children, key, inner, state), state

    def _authorization(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.settings.internal_key}"}

    def _keys(self, references: Iterable[str]) -> EntityState:
        """Ready when every key is there; else what to do."""
        try:
            for reference in references:
                self.secrets.get(reference)
        except EndpointNotReady as err:
            return EntityState(FAILED, err.message)
        return EntityState(READY)
