"""Several sinks on one spool: each gets every record, and a record goes when the last of them has it."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from llmops.interactions.record import Interaction
from llmops.interactions.spool import Spool
from llmops.interactions.spool_reader import ALONE_FROM_STRIKES
from llmops.interactions.spool_size import measure
from tests.interactions.spooling import dead_letters, fill, reading, seqs, stored


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "spool" / "worker-0.db"


@pytest.fixture
def spool(path: Path) -> Iterator[Spool[Interaction]]:
    with closing(Spool[Interaction](path)) as opened:
        yield opened


def test_a_record_goes_when_the_last_sink_has_it(path: Path, spool: Spool[Interaction]) -> None:
    fill(spool, 3)
    with closing(reading(path, "mlflow", "tables")) as mlflow, closing(reading(path, "tables", "mlflow")) as tables:
        mlflow.ack(mlflow.lease(2, 0))
        assert (stored(path), measure(path).waiting) == (3, {"mlflow": 1, "tables": 3})

        tables.ack(tables.lease(3, 0))
        assert (stored(path), measure(path).waiting) == (1, {"mlflow": 1, "tables": 0})

        mlflow.ack(mlflow.lease(3, 0))
        assert (stored(path), measure(path).depth) == (0, 0)


def test_what_one_sink_gave_back_stays_for_it_alone(path: Path, spool: Spool[Interaction]) -> None:
    fill(spool, 3)
    with closing(reading(path, "mlflow", "tables")) as mlflow, closing(reading(path, "tables", "mlflow")) as tables:
        first, *others = mlflow.lease(3, 0)
        mlflow.release([first], "MLflow: 500", 5_000)
        mlflow.ack(others)
        tables.ack(tables.lease(3, 0))

        assert measure(path).waiting == {"mlflow": 1, "tables": 0}
        assert tables.lease(3, 9_000) == []
        assert seqs(mlflow.lease(3, 9_000)) == [first.seq]


def test_a_number_is_never_given_twice(path: Path, spool: Spool[Interaction]) -> None:
    seen = []
    for _ in range(3):
        fill(spool, 2)
        with closing(reading(path)) as reader:
            leased = reader.lease(2, 0)
            reader.ack(leased)
        seen += [(one.spool_id, one.seq) for one in leased]
        spool.close()

    assert [seq for _, seq in seen] == [1, 2, 3, 4, 5, 6]
    assert len({spool_id for spool_id, _ in seen}) == 1


def test_two_spools_have_two_ids(path: Path, spool: Spool[Interaction]) -> None:
    fill(spool, 1)
    with closing(Spool[Interaction](path.with_name("worker-1.db"))) as other:
        fill(other, 1)

    with closing(reading(path)) as one, closing(reading(other.path)) as two:
        assert one.lease(1, 0)[0].spool_id != two.lease(1, 0)[0].spool_id


def test_a_new_sink_starts_with_the_records_that_are_there(path: Path, spool: Spool[Interaction]) -> None:
    fill(spool, 4)
    with closing(reading(path)) as mlflow:
        mlflow.ack(mlflow.lease(2, 0))

    with closing(reading(path, "tables", "mlflow")) as tables:
        assert measure(path).waiting == {"mlflow": 2, "tables": 2}
        assert seqs(tables.lease(9, 0)) == [3, 4]


def test_a_sink_that_is_not_configured_any_more_holds_nothing(path: Path, spool: Spool[Interaction]) -> None:
    fill(spool, 600)
    with closing(reading(path, "tables", "mlflow")) as tables, closing(reading(path, "mlflow", "tables")) as mlflow:
        tables.lease(5, 0)
        mlflow.ack(mlflow.lease(599, 0))
        assert stored(path) == 600

    with closing(reading(path)) as mlflow:
        assert (stored(path), measure(path).waiting) == (1, {"mlflow": 1})
        assert seqs(mlflow.lease(9, 0)) == [600]


def test_records_of_a_sink_that_is_away_keep_their_order_and_are_not_blamed(
    path: Path, spool: Spool[Interaction]
) -> None:
    fill(spool, 6)
    with closing(reading(path)) as reader:
        for _ in range(ALONE_FROM_STRIKES + 2):
            reader.release(reader.lease(2, 0), "away", 0, blamed=False)

        leased = reader.lease(4, 0)

    assert seqs(leased) == [1, 2, 3, 4]
    assert [one.tries for one in leased] == [6, 6, 1, 1]


def test_a_record_under_way_whenever_the_shipper_dies_lets_others_pass(path: Path, spool: Spool[Interaction]) -> None:
    fill(spool, 2)
    for _ in range(8):
        with closing(reading(path)) as dying:
            assert seqs(dying.lease(1, 1_000)) == [1]

    with closing(reading(path)) as dying:
        dying.lease(1, 1_000)
    with closing(reading(path)) as next_one:
        assert seqs(next_one.lease(1, 2_000)) == [2]
        assert seqs(next_one.lease(1, 61_000)) == [1]


def test_an_impatient_lease_takes_those_last_that_failed_often(path: Path, spool: Spool[Interaction]) -> None:
    fill(spool, 3)
    with closing(reading(path)) as reader:
        for _ in range(ALONE_FROM_STRIKES):
            reader.release(reader.lease(1, 0), "MLflow: 500", 0)
        reader.release(reader.lease(1, 0), "MLflow: 500", 60_000)

        others = reader.lease(3, 0, patient=False)
        reader.ack(others)
        last = reader.lease(3, 0, patient=False)

    assert (seqs(others), seqs(last)) == ([2, 3], [1])


def test_a_dead_letter_is_the_sinks_own(path: Path, spool: Spool[Interaction]) -> None:
    (written,) = fill(spool, 1)
    with closing(reading(path, "mlflow", "tables")) as mlflow, closing(reading(path, "tables", "mlflow")) as tables:
        mlflow.bury(mlflow.lease(1, 0)[0], "MLflow: 400")
        (other,) = tables.lease(1, 0)

        assert other.record == written
        assert dead_letters(path) == [("mlflow", "MLflow: 400")]


def test_an_emptied_spool_gives_the_disk_back(path: Path, spool: Spool[Interaction]) -> None:
    with closing(reading(path)) as reader:
        spool._file().execute("INSERT INTO probe VALUES (zeroblob(80000000))")
        spool._file().execute("DELETE FROM probe")
        fill(spool, 1)

        reader.tidy()
        (left,) = reader.lease(9, 0)
        spool._file().execute("PRAGMA wal_checkpoint(TRUNCATE)")

    assert left.seq == 1
    assert path.stat().st_size < 1_000_000
