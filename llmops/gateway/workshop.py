"""How a served entity becomes something that can be called: the one place that knows every provider."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from llmops.endpoints.detail import CREATING, FAILED, READY, EntityState
from llmops.endpoints.external_model import ExternalModel
from llmops.endpoints.secrets import Secrets
from llmops.endpoints.served_entity import ServedEntity
from llmops.errors import EndpointNotReady
from llmops.gateway.table import LiveEntity
from llmops.protocol.task import PATH
from llmops.providers import litellm_bridge
from llmops.providers.children import BRIDGE, BehindChild, Children, engine_key
from llmops.providers.demo import Demo
from llmops.providers.model_files import locate, missing
from llmops.providers.openai_compatible import OpenAiCompatible, Place
from llmops.providers.provider import Limits, Provider
from llmops.providers.tokens import Tokenizer
from llmops.providers.upstream import Upstreams
from llmops.providers.vendors import SPOKEN, target
from llmops.settings import Settings

Built = tuple[Provider, Callable[[], EntityState]]


@dataclass(frozen=True, slots=True)
class Workshop:
    """What served entities are built from; one for each worker."""

    settings: Settings
    secrets: Secrets
    children: Children
    upstreams: Upstreams
    tokenizer: Tokenizer

    def build(self, endpoint: str, entity: ServedEntity) -> LiveEntity:
        """Build one served entity of an endpoint."""
        model, extras = entity.external_model, entity.llmops
        if model is not None:
            provider, state = self._spoken(entity) if model.provider in SPOKEN else self._bridged(entity, model)
        elif extras.engine == "demo":
            provider, state = Demo(entity.task, entity.model, self.tokenizer), lambda: EntityState(READY)
        elif extras.engine == "llama_cpp":
            provider, state = self._local(endpoint, entity)
        else:
            provider, state = self._spoken(entity)
        named = extras.vendor or (model.provider if model else extras.engine) or ""
        return LiveEntity((entity.name, named, entity.model), provider, Limits(**extras.timeouts.model_dump()), state)

    def _spoken(self, entity: ServedEntity) -> Built:
        """A model behind OpenAI's wire; its key is read at every call."""
        to = target(entity)

        def place() -> Place:
            if to.reference is None or to.secret_header is None:
                return Place(to.url, to.headers)
            (header, scheme), secret = to.secret_header, self.secrets.get(to.reference)
            return Place(to.url, {**to.headers, header: scheme + secret}, secret)

        references = [to.reference] if to.reference else []
        return OpenAiCompatible(entity.name, entity.model, place, self.upstreams), lambda: self._keys(references)

    def _bridged(self, entity: ServedEntity, model: ExternalModel) -> Built:
        """A model of a vendor with a wire of its own, behind the litellm bridge."""
        plain, references = model.config.plain(), model.config.references()

        def place() -> Place:
            config = {**plain, **{field: self.secrets.get(reference) for field, reference in references.items()}}
            arguments = litellm_bridge.arguments(model.provider, model.name, config, entity.llmops.api_base)
            headers = {litellm_bridge.HEADER: litellm_bridge.header(arguments), **self._authorization()}
            return Place(f"{self.children.address(BRIDGE)}/v1{PATH[model.task]}", headers)

        def state() -> EntityState:
            child = self.children.get(BRIDGE)
            if child is not None and child.state == "failed":
                return EntityState(FAILED, child.message or "")
            return self._keys(references.values())

        inner = OpenAiCompatible(entity.name, entity.model, place, self.upstreams)
        return BehindChild(self.children, BRIDGE, inner, state), state

    def _local(self, endpoint: str, entity: ServedEntity) -> Built:
        """A model of the local engine."""
        key, source = engine_key(entity), entity.llmops.source or ""

        def place() -> Place:
            return Place(f"{self.children.address(key)}/v1{PATH[entity.task]}", self._authorization())

        def state() -> EntityState:
            if locate(source, self.settings.model_dir) is None:
                return EntityState(FAILED, missing(source, endpoint))
            child = self.children.get(key)
            if child is None or child.state == "starting":
                return EntityState(CREATING, "the engine is loading the model")
            return EntityState(READY) if child.state == "ready" else EntityState(FAILED, child.message or "")

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
