"""An interaction as MLflow's run: pure mapping, one record always gives the same entities.

That is what makes writing twice harmless: names, values and times come from the record, none from the clock. What some
database would refuse is made to fit here, so that every writer stores the same.

Source: ../shared/design.md 6 (the table)
"""

import hashlib
import math
import posixpath
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from mlflow.entities import Metric, Param, RunStatus, RunTag
from mlflow.utils.mlflow_tags import MLFLOW_USER

from llmops.interactions.record import Interaction
from llmops.protocol import chat, completions, embeddings
from llmops.protocol.task import Task
from llmops.protocol.wires import WIRES

#: Experiments of ours begin with this.
EXPERIMENT_PREFIX = "llmops/"
REJECTED = "_rejected"
#: The tag a run is found by; the only one that is unique.
ID_TAG = "llmops.interaction_id"

#: The tag the run of a session is found by; no run of an interaction has it.
SESSION_TAG = "llmops.session"

#: MLflow's own limits are 6000, 8000, twice 250 and 256 characters, and 100 params in one call.
_PARAM_CHARS, _TAG_CHARS, _KEY_CHARS, _NAME_CHARS, _USER_CHARS, _MAX_PARAMS = 6000, 8000, 250, 250, 256, 100
_PREVIEW_CHARS = 1000
_PROMPTS = {
    str(Task.CHAT): chat.last_user_text,
    str(Task.COMPLETIONS): completions.prompt_text,
    str(Task.EMBEDDINGS): embeddings.prompt_text,
}
_NOT_IN_A_KEY = re.compile(r"[^\w\-. /:]")


@dataclass(frozen=True, slots=True)
class RunEntities:
    """Everything MLflow stores of one run.

    Attributes:
        experiment: The name of the run's experiment.
        status: One of MLflow's RunStatus names: FINISHED, FAILED, KILLED.
    """

    experiment: str
    name: str
    user: str
    start_ms: int
    end_ms: int
    status: str
    params: list[Param]
    metrics: list[Metric]
    tags: list[RunTag]


@dataclass(frozen=True, slots=True)
class SessionEntities:
    """Everything MLflow stores of a chat session: a run that others name as their parent.

    Attributes:
        key: Value of SESSION_TAG; a digest, since MLflow's filters cannot hold every text.
    """

    key: str
    name: str
    user: str
    start_ms: int
    end_ms: int
    tags: list[RunTag]


def session_entities(interaction: Interaction) -> SessionEntities | None:
    """Map a record to its session; None where it has none.

    Every record of a session gives the same key, name and tags, and its own user and times.
    """
    session = interaction.session
    if not session:
        return None
    key = hashlib.sha256(session.encode()).hexdigest()[:32]
    return SessionEntities(
        key=key,
        name=cut(session, _NAME_CHARS),
        user=cut(interaction.user or "", _USER_CHARS),
        start_ms=start_ms(interaction),
        end_ms=end_ms(interaction),
        tags=[RunTag(SESSION_TAG, key), RunTag("session", cut(session, _TAG_CHARS))],
    )


def run_entities(interaction: Interaction) -> RunEntities:
    """Map a record to its run."""
    name = f"{interaction.endpoint if interaction.known else REJECTED}-{interaction.interaction_id[-8:]}"
    return RunEntities(
        experiment=experiment_name(interaction),
        name=cut(name, _NAME_CHARS),
        user=cut(interaction.user or "", _USER_CHARS),
        start_ms=start_ms(interaction),
        end_ms=end_ms(interaction),
        status=_status(interaction),
        params=[Param(key, cut(value, _PARAM_CHARS)) for key, value in _params(interaction).items()],
        metrics=[
            Metric(key, float(value), end_ms(interaction), 0)
            for key, value in _metrics(interaction)
            if math.isfinite(value)
        ],
        tags=[RunTag(key, cut(value, _TAG_CHARS)) for key, value in _tags(interaction).items() if value],
    )


def experiment_name(interaction: Interaction) -> str:
    """One experiment for each endpoint; calls of unknown names share one."""
    return EXPERIMENT_PREFIX + (interaction.endpoint if interaction.known else REJECTED)


def start_ms(interaction: Interaction) -> int:
    """When the request was received, in epoch milliseconds."""
    return interaction.received_ns // 1_000_000


def end_ms(interaction: Interaction) -> int:
    """When the story ended, in epoch milliseconds."""
    return start_ms(interaction) + round(interaction.latency_ms)


def prompt_preview(interaction: Interaction) -> str:
    """What was asked, in at most 1000 characters: the last message of the user, the prompt, or the texts."""
    body = _object(interaction.request)
    if interaction.wire in WIRES:
        return cut(WIRES[interaction.wire].last_user_text(body) or interaction.request, _PREVIEW_CHARS)
    read = _PROMPTS.get(interaction.task or "")
    return cut((read(body) if read else "") or interaction.request, _PREVIEW_CHARS)


def response_preview(interaction: Interaction) -> str:
    """What was answered, in at most 1000 characters: the text, or the message of the failure."""
    body = _object(interaction.response or "")
    if interaction.wire in WIRES:
        return cut(WIRES[interaction.wire].answer_text(body) or interaction.message or "", _PREVIEW_CHARS)
    answer = completions.answer_text if interaction.task == Task.COMPLETIONS else chat.answer_text
    return cut(answer(body) or interaction.message or "", _PREVIEW_CHARS)


def cut(text: str, most_chars: int) -> str:
    """A text as every database takes it: at most so long, and without NUL, which PostgreSQL cannot hold."""
    return text[:most_chars].replace("\0", "\N{REPLACEMENT CHARACTER}")


def _status(interaction: Interaction) -> str:
    if interaction.outcome == "abandoned":
        return str(RunStatus.to_string(RunStatus.KILLED))
    finished = interaction.outcome == "answered" and interaction.status < 400
    return str(RunStatus.to_string(RunStatus.FINISHED if finished else RunStatus.FAILED))


def _params(interaction: Interaction) -> dict[str, str]:
    own = {
        "endpoint": interaction.endpoint,
        "served_entity": interaction.served_entity,
        "provider": interaction.provider,
        "model": interaction.model,
        "task": interaction.task,
        "stream": interaction.stream,
    }
    # Ours win over a sampling parameter of the same name.
    sampling = {_key(key): value for key, value in interaction.params.items()}
    params = {key: _text(value) for key, value in {**own, **sampling, **own}.items() if value not in (None, "")}
    return dict(list(params.items())[:_MAX_PARAMS])


def _metrics(interaction: Interaction) -> Iterator[tuple[str, float]]:
    yield "latency_ms", interaction.latency_ms
    yield "attempts", len(interaction.attempts)
    if interaction.stream and interaction.first_byte_ms is not None:
        yield "time_to_first_token_ms", interaction.first_byte_ms
    if interaction.cost_usd is not None:
        yield "cost_usd", interaction.cost_usd
    usage = interaction.usage
    if usage is None:
        return
    yield "input_tokens", usage.input_tokens
    yield "output_tokens", usage.output_tokens
    yield "total_tokens", usage.total_tokens
    if usage.cached_tokens is not None:
        yield "cached_tokens", usage.cached_tokens


def _tags(interaction: Interaction) -> dict[str, str | None]:
    usage = interaction.usage
    return {
        ID_TAG: interaction.interaction_id,
        "status": str(interaction.status),
        "outcome": interaction.outcome,
        "error_code": interaction.error_code,
        "error_message": interaction.message,
        "user": interaction.user,
        # Whom MLflow's page of a run names as its maker.
        MLFLOW_USER: interaction.user,
        "session": interaction.session,
        "client_request_id": interaction.client_request_id,
        "wire": interaction.wire,
        "tokens_estimated": "true" if usage and usage.estimated else None,
        "usage_context": _text(interaction.usage_context) if interaction.usage_context else None,
        "llmops.endpoint_id": interaction.endpoint_id,
        "llmops.parent_traceparent": interaction.traceparent,
        "prompt": prompt_preview(interaction),
        "response": response_preview(interaction),
    }


def _key(text: str) -> str:
    """A caller's name as MLflow takes it, which wants one that could be a path: not empty, not ``a//b`` or ``../a``.

    Source: mlflow 3.17.2 utils/validation.py (validate_param_and_metric_name, path_not_unique)
    """
    key = _NOT_IN_A_KEY.sub("_", text)[:_KEY_CHARS]
    if key.startswith(("/", "..")) or posixpath.normpath(key) in (".", "..") or posixpath.normpath(key) != key:
        key = key.replace("/", "_")
    return "_" if key in ("", ".", "..") else key


def _text(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS).decode()


def _object(text: str) -> Mapping[str, Any]:
    """A body as an object; empty where it is none, so that the readers of texts find nothing in it."""
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError:
        return {}
    return document if isinstance(document, dict) else {}
