"""What only the reader through MLflow's API does: it reads one by one, and not without end."""

from dataclasses import replace

from mlflow import MlflowClient

from llmops.interactions.logged import Wanted
from llmops.interactions.mlflow_reader_api import ApiReader
from llmops.settings import Settings
from tests.interactions.deliveries import delivered
from tests.interactions.records import plain


def test_figures_are_of_the_newest_and_say_so(settings: Settings) -> None:
    chats = (replace(plain(), received_ns=second * 10**9, latency_ms=float(second)) for second in range(5))
    delivered(settings, *chats)
    read: list[int] = []
    reader = ApiReader(MlflowClient(settings.tracking_uri), most=3, progress=read.append)

    (found,) = reader.stats(Wanted())

    assert (found.requests, found.latency_ms[0], found.whole) == (3, 3.0, False)
    assert read == [3]
