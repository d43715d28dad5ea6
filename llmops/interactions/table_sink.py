"""The sink of the inference tables: appends what a record asks for by ``payload_table`` and ``usage_tracked``.

Nothing heavy is imported here: a server without inference tables pays nothing for them.
"""

import importlib
import logging
import sqlite3
import time
from collections.abc import Sequence
from typing import Protocol

from llmops.endpoints.store import Store, StoredEndpoint
from llmops.errors import LlmopsError
from llmops.interactions.record import Interaction
from llmops.interactions.sink import Delivered, Outcome
from llmops.interactions.spool import Leased
from llmops.interactions.table_place import has_workspace, tracked
from llmops.settings import Settings

logger = logging.getLogger(__name__)

#: How often endpoints are looked at, and again after the table of them could not be written.
_LOOK_S, _AGAIN_S = 1.0, 10.0


class _Writer(Protocol):
    """What is used of `llmops.interactions.table_writer.TableWriter`."""

    def write(self, batch: Sequence[Leased[Interaction]]) -> list[Outcome]: ...

    def follow(self, endpoints: Sequence[StoredEndpoint]) -> None: ...

    def tidy(self) -> None: ...

    def close(self) -> None: ...


class TableSink:
    """A `Sink` that appends to Delta tables, each record once whatever happens. It answers no record with Retry."""

    name = "tables"
    batch = 2000

    def __init__(self, settings: Settings) -> None:
        self.linger_s = settings.table_linger_s
        self._settings = settings
        self._opened: _Writer | None = None
        self._store: Store | None = None
        self._look_s = 0.0
        self._behind = True
        self._trouble = ""

    def open(self) -> None:
        """Bring the table of served entities up to date. Tables are opened when they are needed."""
        self.rest()

    def deliver(self, batch: Sequence[Leased[Interaction]]) -> list[Outcome]:
        """Append records to the tables they name; see `Sink.deliver`."""
        if any(one.record.payload_table is not None or one.record.usage_tracked for one in batch):
            outcomes = self._writer().write(batch)
        else:
            outcomes = [Delivered()] * len(batch)
        self.rest()
        return outcomes

    def rest(self) -> None:
        """Do what can wait: note what happened to endpoints, tidy tables. Costs microseconds when nothing is due."""
        if time.monotonic() >= self._look_s:
            self._look_s = time.monotonic() + _LOOK_S
            self._follow()
        if self._opened is not None:
            self._opened.tidy()

    def close(self) -> None:
        """Let go of the store, and end the upkeep."""
        if self._store is not None:
            self._store.close()
        if self._opened is not None:
            self._opened.close()

    def _follow(self) -> None:
        """Write down what happened to endpoints. Where that cannot be done now, payloads go on."""
        try:
            self._store = self._store or Store(self._settings.store_path, self._settings.database_url)
            self._behind = self._store.changed() or self._behind
            if not self._behind:
                return
            endpoints = self._store.all()
            if has_workspace(self._settings) or any(map(tracked, endpoints)):
                self._writer().follow(endpoints)
        except (LlmopsError, sqlite3.Error) as err:
            trouble = err.message if isinstance(err, LlmopsError) else f"{self._settings.store_path}: {err}"
            if trouble != self._trouble:
                logger.warning("event=served_entities_not_logged reason=%r", trouble)
            self._trouble, self._look_s = trouble, time.monotonic() + _AGAIN_S
        else:
            self._behind, self._trouble = False, ""

    def _writer(self) -> _Writer:
        if self._opened is None:
            writer: _Writer = importlib.import_module("llmops.interactions.table_writer").TableWriter(self._settings)
            self._opened = writer
        return self._opened
