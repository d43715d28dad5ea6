"""What workers tell of what they did not record: added up over restarts, readable by all."""

from dataclasses import dataclass
from pathlib import Path

from llmops.interactions.worker_state import Tally, WorkerState, worker_states


@dataclass
class Counted:
    lost: int = 0
    sampled_out: int = 0
    refused: int = 0
    unlogged: int = 0


def test_counts_go_on_where_the_process_before_ended(tmp_path: Path) -> None:
    Tally(tmp_path, 0).tell(Counted(lost=2, sampled_out=5), full=True)

    again = Tally(tmp_path, 0)
    again.tell(Counted(lost=1), full=False)

    assert worker_states(tmp_path) == [WorkerState(0, lost=3, sampled_out=5, full=False)]
    assert again.now(Counted(lost=2), full=False).lost == 4


def test_every_worker_is_told_of_and_a_broken_file_is_not(tmp_path: Path) -> None:
    Tally(tmp_path, 10).tell(Counted(), full=False)
    Tally(tmp_path, 2).tell(Counted(refused=1), full=False)
    (tmp_path / "worker-3.tally").write_text("half of")

    assert [(state.worker, state.refused) for state in worker_states(tmp_path)] == [(2, 1), (10, 0)]


def test_the_file_never_grows(tmp_path: Path) -> None:
    tally = Tally(tmp_path, 0)
    tally.tell(Counted(), full=False)
    before = (tmp_path / "worker-0.tally").stat().st_size
    tally.tell(Counted(lost=10**9), full=True)

    assert (tmp_path / "worker-0.tally").stat().st_size == before


def test_a_directory_that_is_not_there_tells_nothing(tmp_path: Path) -> None:
    assert worker_states(tmp_path / "nowhere") == []
