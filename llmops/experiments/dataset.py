"""An MLflow evaluation dataset made of logged interactions: what was asked is its inputs, row by row.

A dataset has each input once. A row that is there already is left as it is, because a person may have corrected it;
only an expectation it does not have yet is added.

Source: mlflow 3.17.2 store/tracking/sqlalchemy_store.py (`upsert_dataset_records`), entities/evaluation_dataset.py
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from mlflow.store.tracking.abstract_store import AbstractStore

from llmops.errors import InvalidParameter
from llmops.experiments.question import Question, Unfit
from llmops.interactions.mlflow_experiments import endpoint_experiments, explained
from llmops.interactions.mlflow_store import open_store
from llmops.protocol.task import Task
from llmops.settings import Settings

#: The name MLflow's own judges look for.
EXPECTED = "expected_response"
_NAME_CHARS = 250
#: Rows that travel together: at most so many, and about so many bytes.
_ROWS, _BYTES = 100, 4_000_000
#: A row with such a field is to MLflow a person to be simulated.
_SIMULATION = "goal"


@dataclass(frozen=True, slots=True)
class Extended:
    """What became of a dataset.

    Attributes:
        dataset_id: None where there is no dataset, since nothing could be a row.
        new: Rows that were added.
        completed: Rows that were there and got an expectation.
        known: Rows that were there, and inputs that came a second time.
        skipped: How many interactions could not be a row, by reason.
    """

    name: str
    dataset_id: str | None
    new: int
    completed: int
    known: int
    skipped: Mapping[str, int]


def extend(
    settings: Settings,
    name: str,
    questions: Iterable[Question | Unfit],
    *,
    expect_logged: bool = False,
    told: Callable[[int], None] = lambda count: None,
) -> Extended:
    """Make a dataset of questions, or add them to the one of this name.

    Args:
        name: Without quotes; MLflow's filters cannot hold them.
        questions: Newest first: of two with the same inputs the first becomes the row.
        expect_logged: Whether the logged answer is what later answers are measured by.
        told: Called with the number of interactions looked at, each time some were written.

    Raises:
        InvalidParameter: The name cannot be looked for, or several datasets have it.
        Unavailable: The tracking store is away, or keeps no datasets.
    """
    if not 0 < len(name) <= _NAME_CHARS or not name.isprintable() or {"'", '"'} & set(name):
        raise InvalidParameter(f"a dataset's name has 1 to {_NAME_CHARS} printable characters, and no quotes")
    growing = _Dataset(open_store(settings), name)
    skipped: Counter[str] = Counter()
    looked = 0
    for batch in _batches(questions):
        rows = []
        for question in batch:
            match fitted(question, expect_logged=expect_logged):
                case Unfit(reason):
                    skipped[reason] += 1
                case row:
                    rows.append(row)
        growing.add(rows)
        looked += len(batch)
        told(looked)
    return Extended(name, growing.dataset_id, growing.new, growing.completed, growing.known, dict(skipped))


@dataclass(frozen=True, slots=True)
class Row:
    """A row as MLflow takes it.

    Attributes:
        endpoint: The dataset belongs to this endpoint's experiment.
    """

    endpoint: str
    inputs: Mapping[str, Any]
    expectations: Mapping[str, Any]
    tags: Mapping[str, str]
    source: Mapping[str, Any]

    @property
    def digest(self) -> bytes:
        """What MLflow tells rows apart by."""
        return _digest(self.inputs)

    def record(self) -> dict[str, Any]:
        """As MLflow's store takes it."""
        return {
            "inputs": self.inputs,
            "outputs": None,
            "expectations": dict(self.expectations),
            "tags": dict(self.tags),
            "source": self.source,
        }


def fitted(question: Question | Unfit, *, expect_logged: bool = False) -> Row | Unfit:
    """Make a row of a question."""
    if isinstance(question, Unfit):
        return question
    if question.task is Task.EMBEDDINGS:
        return Unfit("embeddings have no answer to judge")
    if _SIMULATION in question.body:
        return Unfit(f"the request has a field '{_SIMULATION}', which MLflow keeps for simulated persons")
    if expect_logged and not question.answer:
        return Unfit("there is no whole answer to expect")
    one = question.interaction
    tags = {"endpoint": one.endpoint, "model": one.model, "served_entity": one.served_entity, "outcome": one.outcome}
    source = {"trace_id": one.trace_id, **({"session_id": one.session} if one.session else {})}
    return Row(
        endpoint=one.endpoint,
        inputs=question.body,
        expectations={EXPECTED: question.answer} if expect_logged else {},
        tags={key: value for key, value in tags.items() if value},
        source={"source_type": "TRACE", "source_data": source},
    )


class _Dataset:
    """A dataset that grows.

    Attributes:
        dataset_id: None until there is one.
    """

    def __init__(self, store: AbstractStore, name: str) -> None:
        self._store = store
        self._name = name
        self._experiments = endpoint_experiments(store)
        self._joined: set[str] = set()
        self.new = self.completed = self.known = 0
        self.dataset_id = self._found()
        #: Whether a row has an expectation, by what tells it apart.
        self._rows = dict(self._read())

    def add(self, rows: list[Row]) -> None:
        """Write those rows that are new, and the expectations that are."""
        written: dict[bytes, dict[str, Any]] = {}
        for row in rows:
            digest, expected = row.digest, EXPECTED in row.expectations
            there = self._rows.get(digest)
            if there is None:
                self.new += 1
                written[digest] = row.record()
            elif expected and not there:
                self.completed += 1
                written[digest] = {"inputs": row.inputs, "expectations": dict(row.expectations)}
            else:
                self.known += 1
                continue
            self._rows[digest] = expected
        if not written:
            return
        with explained():
            self._join({row.endpoint for row in rows})
            self._store.upsert_dataset_records(self.dataset_id, list(written.values()))

    def _join(self, endpoints: set[str]) -> None:
        """Make the dataset where there is none, and let it belong to the experiments of the endpoints."""
        ids = {self._experiments[name] for name in endpoints if name in self._experiments} - self._joined
        if self.dataset_id is None:
            self.dataset_id = str(self._store.create_dataset(self._name, {}, sorted(ids)).dataset_id)
        elif ids:
            self._store.add_dataset_to_experiments(self.dataset_id, sorted(ids))
        self._joined |= ids

    def _found(self) -> str | None:
        with explained():
            found = self._store.search_datasets(filter_string=f"name = '{self._name}'", max_results=2)
        ids = [str(one.dataset_id) for one in found if one.name == self._name]
        if len(ids) > 1:
            raise InvalidParameter(f"several datasets are named '{self._name}' ({', '.join(ids)}): take another name")
        return ids[0] if ids else None

    def _read(self) -> Iterator[tuple[bytes, bool]]:
        token: str | None = None
        while self.dataset_id is not None:
            with explained():
                # MLflow's public way reads all rows at once.
                records, token = self._store._load_dataset_records(self.dataset_id, max_results=500, page_token=token)
            for record in records:
                yield _digest(record.inputs), EXPECTED in (record.expectations or {})
            if not token:
                return


def _digest(inputs: Mapping[str, Any]) -> bytes:
    # The very text MLflow hashes.
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).digest()


def _batches(questions: Iterable[Question | Unfit]) -> Iterator[list[Question | Unfit]]:
    batch: list[Question | Unfit] = []
    size = 0
    for question in questions:
        batch.append(question)
        size += len(orjson.dumps(question.body)) if isinstance(question, Question) else 0
        if len(batch) == _ROWS or size > _BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
