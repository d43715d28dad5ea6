"""Keys that a document from REST gives in clear: they go to the encrypted store, and the document keeps a reference.

``openai_api_key_plaintext`` becomes ``openai_api_key`` with the name of a secret in a scope of our own. No value there
is ever replaced, another one gets another name: so a refused change changes no key, and a former config keeps its own.

Source: ../shared/reference/databricks_contract.md 3
"""

import re
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from llmops.endpoints.document import Document
from llmops.endpoints.external_model import PLAINTEXT, ExternalModel, secret_fields
from llmops.endpoints.problems import model_in
from llmops.endpoints.secret_store import SecretStore
from llmops.endpoints.secrets import KEY_NAME
from llmops.errors import AlreadyExists, Conflict, InvalidParameter

SCOPE = "llmops-endpoints"
_OURS = re.compile(rf"\{{\{{secrets/{SCOPE}/({KEY_NAME.pattern})\}}\}}")
#: Of the name of a served entity, so that the name of a secret is not too long for one.
_ENTITY_CHARS = 25


@dataclass(frozen=True, slots=True)
class Taken:
    """A document with references in the place of keys in clear, and those keys.

    Attributes:
        document: Still with those that no field takes, which its check refuses.
        values: By the name of the secret in our scope; not kept yet.
    """

    document: dict[str, Any] = field(repr=False)
    values: Mapping[str, bytes] = field(repr=False)


class PlaintextKeys:
    """Takes keys out of documents, and keeps them as long as their endpoint is there."""

    def __init__(self, store: SecretStore) -> None:
        self._store = store

    def take(self, document: Mapping[str, Any], old: Mapping[str, Any] | None = None) -> Taken:
        """Put references in the place of keys in clear. The document is not checked otherwise, and not changed.

        Args:
            old: The document now; a key that is the same as there keeps its reference, so that the config is the same.

        Raises:
            InvalidParameter: A key is no text, or empty.
        """
        taking = _Taking(self._store, _worded(document.get("name"), 63), _named(old or {}))
        config = document.get("config")
        if not isinstance(config, dict):
            return Taken(dict(document), {})
        for key in ("served_entities", "served_models"):
            if isinstance(config.get(key), list):
                entities = [taking.entity(one, f"config.{key}[{n}]") for n, one in enumerate(config[key])]
                config = {**config, key: entities}
        return Taken({**document, "config": config}, taking.values)

    def keep(self, taken: Taken, write: Callable[[], object]) -> None:
        """Seal the keys, then write the endpoint that names them. Blocks.

        A server that is killed between the two leaves sealed keys that nothing names.

        Raises:
            AlreadyExists, Conflict: By the write; its keys are gone again then.
            InvalidParameter: A key is too long.
            Unavailable: As for `SecretStore`, or by the write: whether that took place is not known, so keys stay.
        """
        if taken.values:
            self._store.keep(SCOPE, taken.values)
        try:
            write()
        except (AlreadyExists, Conflict):
            if taken.values:
                self._store.drop(SCOPE, taken.values)
            raise

    def forget(self, endpoint: str, configs: Iterable[Mapping[str, Any]]) -> None:
        """Drop the keys of an endpoint that is no more. Blocks.

        Args:
            configs: Every one it had. What else begins with its name may be of a new endpoint already.
        """
        keys = {key for config in configs for key in _named(config) if key.startswith(f"{endpoint}.")}
        if keys:
            self._store.drop(SCOPE, keys)


@dataclass(frozen=True, slots=True)
class _Taking:
    """The keys of one document, on their way out of it."""

    store: SecretStore
    endpoint: str
    known: frozenset[str]
    values: dict[str, bytes] = field(default_factory=dict, repr=False)

    def entity(self, given: Any, place: str) -> Any:
        """A served entity with references."""
        model = given.get("external_model") if isinstance(given, dict) else None
        if not isinstance(model, dict):
            return given
        name = f"{self.endpoint}.{_worded(given.get('name') or model.get('name'), _ENTITY_CHARS)}"
        return {**given, "external_model": self._part(model, ExternalModel, name, f"{place}.external_model")}

    def _part(self, given: dict[str, Any], model: type[Document], name: str, place: str) -> dict[str, Any]:
        fields, found = secret_fields(model), dict(given)
        for key, value in given.items():
            known = model.model_fields.get(key)
            inner = model_in(known.annotation) if known is not None else None
            if inner is not None and isinstance(value, dict):
                found[key] = self._part(value, inner, name, f"{place}.{key}")
            # Where both are given, the model refuses them, and names no value.
            replaced = key.removesuffix(PLAINTEXT)
            if key != replaced and replaced in fields and given.get(replaced) is None:
                del found[key]
                if value is not None:
                    found[replaced] = self._reference(f"{name}.{replaced}.", value, f"{place}.{key}")
        return found

    def _reference(self, begin: str, value: Any, place: str) -> str:
        if not isinstance(value, str) or not value.strip():
            raise InvalidParameter(f"{place}: must be a text that is not empty")
        key = next((key for key in self.known if key.startswith(begin) and self._same(key, value)), None)
        if key is None:
            key = begin + secrets.token_hex(4)
            self.values[key] = value.encode()
        return f"{{{{secrets/{SCOPE}/{key}}}}}"

    def _same(self, key: str, value: str) -> bool:
        return self.store.read(SCOPE, key) == value.encode()


def _named(document: Mapping[str, Any]) -> frozenset[str]:
    """The secrets of our scope that a document names."""
    return frozenset(_OURS.findall(orjson.dumps(document).decode()))


def _worded(name: Any, most_chars: int) -> str:
    """A name as far as a secret can have it; one that is no name is refused later."""
    return re.sub(r"[^A-Za-z0-9_-]", "-", str(name))[:most_chars]
