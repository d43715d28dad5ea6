"""Retention as the shipper applies it: by itself, now and then, and never for long."""

import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmops.endpoints.spec import EndpointSpec
from llmops.endpoints.store import Store
from llmops.errors import Unavailable
from llmops.interactions import mlflow_sql_deletion, retention
from llmops.interactions.mlflow_deletion import open_deletion
from llmops.interactions.retention import prune_due
from llmops.settings import Settings
from tests.interactions.deliveries import delivered
from tests.interactions.records import plain
from tests.server import demo


def endpoint(settings: Settings, **more: Any) -> None:
    with closing(Store(settings.store_path)) as store:
        store.create(EndpointSpec.model_validate({**demo("chat"), **more}), None)


def log(settings: Settings, count: int = 1) -> None:
    delivered(settings, *(replace(plain(), received_ns=10**18) for _ in range(count)))


def logged(settings: Settings) -> int:
    deletion = open_deletion(settings)
    return deletion.count_before(deletion.experiments()["chat"], 1 << 50).interactions


def due_at(settings: Settings) -> Path:
    return settings.data_dir / "prune-due"


def test_what_is_too_old_goes_by_itself(settings: Settings) -> None:
    endpoint(settings, llmops={"retention_days": 30})
    log(settings)

    pruned = prune_due(settings)

    assert pruned is not None
    assert (pruned.endpoints["chat"].interactions, pruned.finished) == (1, True)
    assert logged(settings) == 0


def test_it_is_looked_for_once_an_hour(settings: Settings) -> None:
    endpoint(settings, llmops={"retention_days": 30})
    log(settings)
    assert prune_due(settings) is not None

    log(settings)
    assert prune_due(settings) is None
    assert logged(settings) == 1

    assert 3500 < float(due_at(settings).read_text()) - time.time() <= 3600
    due_at(settings).write_text(str(time.time() - 1))
    assert prune_due(settings) is not None
    assert logged(settings) == 0


def test_nothing_is_asked_of_mlflow_where_everything_is_kept(settings: Settings) -> None:
    endpoint(settings)

    assert prune_due(replace(settings, mlflow_tracking_uri="http://127.0.0.1:9")) is None


def test_it_stops_when_its_time_is_over_and_goes_on_soon(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlflow_sql_deletion, "CHUNK", 2)
    endpoint(settings, llmops={"retention_days": 30})
    log(settings, 5)

    pruned = prune_due(settings, budget_s=0)

    assert pruned is not None
    assert not pruned.finished
    assert logged(settings) == 3
    assert float(due_at(settings).read_text()) - time.time() <= 10


def test_a_store_that_is_away_is_not_asked_all_the_time(settings: Settings) -> None:
    endpoint(settings, llmops={"retention_days": 30})
    away = replace(settings, mlflow_tracking_uri="http://127.0.0.1:9")

    with pytest.raises(Unavailable):
        prune_due(away)

    assert prune_due(away) is None


def test_a_thread_of_the_shipper_goes_on_when_pruning_fails(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(retention, "_TICK_S", 0.01)
    caplog.set_level("INFO", "llmops")
    settings.store_path.write_bytes(b"no database, for a moment" * 100)
    stop = threading.Event()
    thread = threading.Thread(target=retention.keep_pruning, args=(settings, stop))
    thread.start()
    try:
        wait(lambda: "event=prune_failed" in caplog.text)
        settings.store_path.unlink()
        endpoint(settings, llmops={"retention_days": 30})
        log(settings)
        due_at(settings).unlink()
        wait(lambda: "event=pruned interactions=1" in caplog.text)
    finally:
        stop.set()
        thread.join(timeout=30)

    assert not thread.is_alive()


def wait(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


@pytest.mark.parametrize("content", ["", "nonsense", "1e300", "nan"])
def test_a_note_that_makes_no_sense_does_not_keep_old_interactions(settings: Settings, content: str) -> None:
    endpoint(settings, llmops={"retention_days": 30})
    log(settings)
    due_at(settings).write_text(content)

    assert prune_due(settings) is not None
    assert logged(settings) == 0
