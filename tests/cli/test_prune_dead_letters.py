"""Old dead letters deleted: they hold whole payloads."""

import json
import time
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from llmops.interactions.dead_letters import DeadLetters
from llmops.interactions.feedback import Feedback
from llmops.interactions.record import Interaction, new_id
from llmops.interactions.spool import Spool
from llmops.interactions.spool_reader import SpoolReader
from llmops.settings import Settings
from tests.cli.pruning import DAY_NS, aged, endpoint, prune, pruned
from tests.interactions.records import plain


@pytest.fixture
def settings(either_store: Settings) -> Settings:
    """Settings of a data directory of this test's own."""
    return either_store


def buried(folder: Path, *records: Interaction | Feedback | bytes) -> None:
    """Dead letters of a sink that refused all of them; bytes are no record at all."""
    spool: Spool[Any] = Spool(folder / "worker-0.db")
    for record in records:
        spool.append(Noise(record) if isinstance(record, bytes) else record)
    spool.close()
    with closing(SpoolReader(spool.path, Noise, "mlflow", ["mlflow"])) as reader:
        for one in reader.lease(100, 0):
            reader.bury(one, "it is broken")


@dataclass(frozen=True)
class Noise:
    """A record that is what it is."""

    content: bytes
    interaction_id: str = "0" * 32

    def encode(self) -> bytes:
        return self.content


def test_dead_letters_get_as_old_as_their_interactions(settings: Settings) -> None:
    endpoint(settings, "chat", llmops={"retention_days": 30})
    endpoint(settings, "for-ever")
    days_ago_ms = {days: (time.time_ns() - days * DAY_NS) // 1_000_000 for days in (31, 29)}
    asked = [aged(plain(name), days) for name in ("chat", "for-ever") for days in (31, 29)]
    said = [replace(feedback(), created_ms=days_ago_ms[days]) for days in (31, 29)]
    of_another = replace(said[0], endpoints=("for-ever",))
    buried(settings.spool_dir, *asked, b"no record")
    buried(settings.feedback_dir, *said, of_another)

    counted = json.loads(prune(settings, "--dry-run", "--json").stdout)["dead_letters"]
    gone = pruned(settings)["dead_letters"]
    rest = {letter.content for letter in DeadLetters(settings).all()}

    assert (counted, gone) == (2, 2)
    kept: list[Interaction | Feedback] = [*asked[1:], said[1], of_another]
    assert rest == {*(one.encode() for one in kept), b"no record"}
    assert pruned(settings, "--older-than", "30d")["dead_letters"] == 2
    assert len(DeadLetters(settings).all()) == 4


def feedback() -> Feedback:
    return Feedback.read({"interaction_id": new_id(), "value": True})
