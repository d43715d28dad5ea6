"""Following the log: what arrives is given once, also when it comes late."""

import time
from dataclasses import replace

import pytest

from llmops.interactions.follower import Follower
from llmops.interactions.logged import LoggedInteraction, Wanted
from llmops.interactions.mlflow_reader import MlflowReader
from llmops.interactions.mlflow_schema import TESTED
from llmops.interactions.record import Interaction, new_id
from llmops.settings import Settings
from tests.interactions.deliveries import delivered
from tests.interactions.records import failed, plain


def ago(seconds: int) -> Interaction:
    """A plain chat received so long ago."""
    received_ms = time.time_ns() // 1_000_000 - seconds * 1000
    return replace(plain(), received_ns=received_ms * 1_000_000, interaction_id=f"{received_ms:012x}{new_id()[12:]}")


def ids(interactions: list[LoggedInteraction]) -> list[str]:
    return [one.interaction_id for one in interactions]


def sooner(follower: Follower) -> list[LoggedInteraction]:
    """The next news with a look back, which is not taken every time."""
    follower.look_back()
    return follower.news()


@pytest.mark.parametrize("tested", [TESTED, frozenset[str]()], ids=["sql", "api"])
def test_an_interaction_is_given_once_in_the_order_received_and_however_late(
    settings: Settings, tested: frozenset[str]
) -> None:
    delivered(settings, ago(5), ago(1800))
    follower = Follower(MlflowReader(settings, tested=tested), Wanted())
    second, first, late, older = ago(0), ago(1), ago(1801), ago(3000)

    assert follower.news() == []
    delivered(settings, second, first)
    assert ids(follower.news()) == [first.interaction_id, second.interaction_id]
    delivered(settings, late, older)
    assert ids(sooner(follower)) == [older.interaction_id, late.interaction_id]
    assert sooner(follower) == []


def test_only_what_is_wanted_is_given(settings: Settings) -> None:
    delivered(settings, ago(5))
    follower = Follower(MlflowReader(settings), Wanted(status="error"))
    down = failed()
    delivered(settings, down, ago(0))

    assert ids(follower.news()) == [down.interaction_id]


def test_what_was_shown_already_is_old(settings: Settings) -> None:
    delivered(settings, ago(5))
    reader = MlflowReader(settings)
    follower = Follower(reader, Wanted())
    delivered(settings, ago(0))

    follower.skip(reader.page(Wanted(), 10).interactions)

    assert follower.news() == []


def test_what_is_too_old_to_come_back_is_forgotten(settings: Settings) -> None:
    delivered(settings, ago(5))
    follower = Follower(MlflowReader(settings), Wanted(), late_ms=1000)
    ancient = ago(7200)
    delivered(settings, ancient)

    assert sooner(follower) == []
