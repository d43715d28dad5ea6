"""The sink of feedback: every opinion becomes an assessment on the trace of the answer it is about.

It may be here before the trace, which is on its way as long as an older interaction waits in a spool.
"""

import time
from collections.abc import Sequence

from mlflow.entities import AssessmentSource, AssessmentSourceType
from mlflow.entities import Feedback as MlflowFeedback
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode
from mlflow.store.tracking.abstract_store import AbstractStore

from llmops.errors import SpoolError, Unavailable
from llmops.interactions.feedback import Feedback
from llmops.interactions.mlflow_schema import check
from llmops.interactions.mlflow_sink import MlflowSink
from llmops.interactions.mlflow_store import judge, open_store
from llmops.interactions.sink import Delivered, Later, Outcome, Refused
from llmops.interactions.spool import Leased, spools
from llmops.interactions.spool_size import oldest_of
from llmops.settings import Settings

#: The assessment's metadata that tells a redelivery that it is there.
ID_KEY = "llmops.feedback_id"
_UNKNOWN_USER = "unknown"
#: How long feedback waits for a trace that is not in our spools: another machine may answer, or a stream go on.
_PATIENCE_MS = 60_000


class FeedbackSink:
    """A `Sink` of feedback that writes to the tracking store of the settings."""

    name = "feedback"
    batch = 100
    linger_s = 0.0

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._store: AbstractStore | None = None

    def open(self) -> None:
        """Connect; see `Sink.open`."""
        check(self._settings.tracking_uri)
        self._store = open_store(self._settings)

    def deliver(self, batch: Sequence[Leased[Feedback]]) -> list[Outcome]:
        """Write assessments, one call each; see `Sink.deliver`."""
        if self._store is None:
            raise Unavailable("MLflow: the tracking store is not open yet")
        return [self._deliver(self._store, leased) for leased in batch]

    def _deliver(self, store: AbstractStore, leased: Leased[Feedback]) -> Outcome:
        feedback = leased.record
        try:
            # Looked up first: whether the trace is there, and on a redelivery whether the assessment is.
            trace = store.get_trace_info(feedback.trace_id)
            answered = trace.tags.get("endpoint", "")
            if feedback.endpoints is not None and answered not in feedback.endpoints:
                return Refused(_stranger(feedback.endpoints, answered))
            if not any((one.metadata or {}).get(ID_KEY) == feedback.feedback_id for one in trace.assessments):
                store.create_assessment(_assessment(feedback))
        except MlflowException as err:
            if err.error_code == ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
                return self._missing(feedback)
            return judge(err, leased.tries)
        return Delivered()

    def _missing(self, feedback: Feedback) -> Outcome:
        reason = f"MLflow has no trace {feedback.trace_id}"
        age_ms = time.time_ns() // 1_000_000 - feedback.created_ms
        if age_ms < _PATIENCE_MS or self._on_its_way(feedback):
            return Later(f"{reason} yet")
        return Refused(f"{reason}: the id is wrong, or that interaction is not recorded or was deleted")

    def _on_its_way(self, feedback: Feedback) -> bool:
        """Whether MLflow has still to get an interaction that may be the one: written down no later than soon after."""
        try:
            oldest = [oldest_of(path, MlflowSink.name) for path in spools(self._settings.spool_dir)]
        except SpoolError:
            return True
        # A stream names its interaction at its first byte, and is written down at its end.
        return any(one is not None and one <= feedback.created_ms + _PATIENCE_MS for one in oldest)


def _stranger(endpoints: Sequence[str], answered: str) -> str:
    given = f"for endpoint '{endpoints[0]}'" if len(endpoints) == 1 else "by somebody who may not query that"
    return f"the interaction is of endpoint '{answered}', and the feedback was given {given}"


def _assessment(feedback: Feedback) -> MlflowFeedback:
    return MlflowFeedback(
        name=feedback.name,
        value=feedback.value,
        rationale=feedback.rationale,
        source=AssessmentSource(AssessmentSourceType.HUMAN, feedback.user or _UNKNOWN_USER),
        metadata={ID_KEY: feedback.feedback_id},
        trace_id=feedback.trace_id,
        create_time_ms=feedback.created_ms,
        last_update_time_ms=feedback.created_ms,
    )
