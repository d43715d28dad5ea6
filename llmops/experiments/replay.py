"""Logged questions asked again, several at a time, of another endpoint of a running server.

The threads that wait for answers are daemons: whoever presses Ctrl-C does not wait for them, and the connections they
leave behind cancel their answers upstream.
"""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from queue import SimpleQueue

from llmops.client import Client
from llmops.errors import CommandError, ServerRefused
from llmops.experiments.budget import Budget
from llmops.experiments.question import Question, answer
from llmops.interactions.replays import request_id
from llmops.protocol.usage import Usage

#: How long a question is asked again while the server says to come back later.
_PATIENCE_S = 300.0
_LATER = frozenset({429, 503})


@dataclass(frozen=True, slots=True)
class Reply:
    """What a question brought this time.

    Attributes:
        answer: As text; None where it failed.
        failure: Why it failed; None where it did not.
        latency_ms: As the client saw it, of the last try.
        interaction_id: As the server recorded it; None where it said none.
    """

    question: Question
    answer: str | None
    failure: str | None
    latency_ms: float
    usage: Usage | None
    interaction_id: str | None


class Asker:
    """Asks an endpoint; safe from any thread.

    Args:
        run_id: Of the comparison; stands in each request's ``usage_context.replay``.
    """

    def __init__(self, client: Client, endpoint: str, run_id: str) -> None:
        self._client = client
        self._endpoint = endpoint
        self._run_id = run_id
        self._stopped = threading.Event()
        self._not_before = 0.0

    def ask(self, question: Question) -> Reply:
        """Ask one question; a failure is a reply."""
        body = {
            **question.body,
            "client_request_id": request_id(self._run_id, question.interaction.interaction_id),
            "usage_context": {"replay": self._run_id},
        }
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            # One that is told to come back later holds back the others too.
            self._stopped.wait(max(self._not_before - time.monotonic(), 0))
            started = time.monotonic()
            try:
                given = self._client.invoke(self._endpoint, body)
            except CommandError as err:
                wait_s = _wait_s(err)
                until = time.monotonic() + (wait_s or 0)
                if wait_s is None or until > deadline or self._stopped.is_set():
                    latency_ms = (time.monotonic() - started) * 1000
                    return Reply(question, None, err.message, latency_ms, None, getattr(err, "interaction_id", None))
                self._not_before = max(self._not_before, until)
            else:
                facts = given.facts
                text = answer(question.task, given.document)
                return Reply(question, text, None, facts.latency_ms, facts.usage, facts.interaction_id)

    def stop(self) -> None:
        """Wait for nothing any more."""
        self._stopped.set()


def ask_all(asker: Asker, questions: Iterator[Question], concurrency: int, budget: Budget) -> Iterator[Reply]:
    """Ask questions, and give each reply when it comes.

    Args:
        questions: Read as far as replies are awaited.
        concurrency: How many are asked at a time, >= 1.
    """
    todo: SimpleQueue[Question | None] = SimpleQueue()
    done: SimpleQueue[Reply | Exception] = SimpleQueue()
    for _ in range(concurrency):
        threading.Thread(target=_work, args=(asker.ask, todo, done), daemon=True).start()
    asking, more = 0, True
    try:
        while more or asking:
            while more and asking < concurrency and budget.allows(asking):
                question = next(questions, None)
                more = question is not None
                if question is not None:
                    todo.put(question)
                    asking += 1
            more = more and not budget.over
            if asking:
                reply = done.get()
                asking -= 1
                if isinstance(reply, Exception):
                    raise reply
                yield reply
            elif more:
                budget.wait()
    finally:
        asker.stop()
        for _ in range(concurrency):
            todo.put(None)


def _work(
    ask: Callable[[Question], Reply], todo: "SimpleQueue[Question | None]", done: "SimpleQueue[Reply | Exception]"
) -> None:
    while (question := todo.get()) is not None:
        try:
            done.put(ask(question))
        except Exception as err:  # noqa: BLE001 - raised again by who waits for the reply
            done.put(err)


def _wait_s(err: CommandError) -> int | None:
    """Seconds after which to ask again; None where that does not help."""
    return err.retry_after_s if isinstance(err, ServerRefused) and err.status in _LATER else None
