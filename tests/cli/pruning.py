"""Endpoints that say how long their interactions are kept, interactions of an age, and the command that looks."""

import json
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any

from click.testing import CliRunner, Result

from llmops.cli.prune import prune as command
from llmops.endpoints.spec import EndpointSpec
from llmops.endpoints.store import Store
from llmops.interactions.record import Interaction
from llmops.settings import Settings
from tests.server import demo

DAY_NS = 86_400 * 10**9


def aged(one: Interaction, days: float) -> Interaction:
    return replace(one, received_ns=time.time_ns() - round(days * DAY_NS))


@contextmanager
def endpoints(settings: Settings) -> Iterator[Store]:
    with closing(Store(settings.store_path, settings.database_url)) as store:
        store.begin()
        yield store


def endpoint(settings: Settings, name: str, **more: Any) -> None:
    with endpoints(settings) as store:
        store.create(EndpointSpec.model_validate({**demo(name), **more}), None)


def change(settings: Settings, name: str, **more: Any) -> None:
    with endpoints(settings) as store:
        old = store.get(name)
        store.update(old, EndpointSpec.model_validate({**old.document, **more}))


def delete(settings: Settings, name: str) -> None:
    with endpoints(settings) as store:
        store.delete(name)


def prune(settings: Settings, *options: str) -> Result:
    return CliRunner().invoke(command, ["--data-dir", str(settings.data_dir), *options])


def pruned(settings: Settings, *options: str) -> dict[str, Any]:
    result = prune(settings, "--json", *options)
    assert result.exception is None, result.output
    document: dict[str, Any] = json.loads(result.stdout)
    return document
