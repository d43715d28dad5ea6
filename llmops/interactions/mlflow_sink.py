"""The MLflow sink: every interaction becomes one run with one trace.

What a run and a trace hold is decided in mlflow_entities and mlflow_trace; how they get into the store is a writer's.
"""

from collections.abc import Sequence

from mlflow.exceptions import MlflowException

from llmops.errors import Unavailable
from llmops.interactions.mlflow_client_writer import ClientWriter
from llmops.interactions.mlflow_store import Experiments, judge, open_store
from llmops.interactions.mlflow_writer import Mapped, Writer
from llmops.interactions.sink import Delivered, Outcome, Refused
from llmops.interactions.spool import Leased
from llmops.settings import Settings


class MlflowSink:
    """A `Sink` that writes to the tracking store of the settings."""

    batch = ClientWriter.batch

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._opened: tuple[Experiments, Writer] | None = None

    def open(self) -> None:
        """Connect, and initialise an empty database; see `Sink.open`."""
        store = open_store(self._settings)
        remote = self._settings.tracking_uri.startswith("http")
        experiments = Experiments(store, None if remote else self._settings.artifact_root)
        self._opened = (experiments, ClientWriter(store))

    def deliver(self, batch: Sequence[Leased]) -> list[Outcome]:
        """Write records, experiment by experiment; see `Sink.deliver`."""
        if self._opened is None:
            raise Unavailable("MLflow: the tracking store is not open yet")
        outcomes: dict[int, Outcome] = {}
        groups: dict[str, dict[int, Mapped]] = {}
        for index, leased in enumerate(batch):
            try:
                mapped = Mapped.of(leased)
            except (TypeError, ValueError, AttributeError) as err:
                outcomes[index] = Refused(f"the record cannot be mapped to a run: {type(err).__name__}")
            else:
                groups.setdefault(mapped.run.experiment, {})[index] = mapped
        for name, group in groups.items():
            outcomes.update(zip(group, _write(*self._opened, name, list(group.values())), strict=True))
        return [outcomes[index] for index in range(len(batch))]


def _write(experiments: Experiments, writer: Writer, name: str, group: Sequence[Mapped]) -> list[Outcome]:
    try:
        outcomes = writer.write(experiments.id(name), group)
    except MlflowException as err:
        outcomes = [judge(err, mapped.tries) for mapped in group]
    if any(not isinstance(outcome, Delivered) for outcome in outcomes):
        experiments.forget(name)
    return outcomes
