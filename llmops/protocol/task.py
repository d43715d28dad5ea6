"""The tasks an endpoint can have, and which one a request body asks for."""

from collections.abc import Mapping
from enum import StrEnum

from llmops.errors import BadRequest


class Task(StrEnum):
    """What an endpoint does, by the names MLflow and Databricks use."""

    CHAT = "llm/v1/chat"
    COMPLETIONS = "llm/v1/completions"
    EMBEDDINGS = "llm/v1/embeddings"


#: The field of a body that tells its task.
FIELD: Mapping[Task, str] = {Task.CHAT: "messages", Task.COMPLETIONS: "prompt", Task.EMBEDDINGS: "input"}

#: The path of each task on an OpenAI-compatible server, after its base URL.
PATH: Mapping[Task, str] = {
    Task.CHAT: "/chat/completions",
    Task.COMPLETIONS: "/completions",
    Task.EMBEDDINGS: "/embeddings",
}


def detect(body: Mapping[str, object]) -> Task:
    """Tell the task of an invocation from its fields.

    Returns:
        The first of chat, completions, embeddings whose field is present.

    Raises:
        BadRequest: None of ``messages``, ``prompt``, ``input`` is there.
    """
    for task, field in FIELD.items():
        if field in body:
            return task
    raise BadRequest("the body has none of 'messages' (chat), 'prompt' (completions), 'input' (embeddings)")


def check(task: Task, body: Mapping[str, object]) -> None:
    """Check that the field of a task has the shape it must have; what is in it is for the model to judge.

    Raises:
        BadRequest: It is missing, empty or of a wrong type.
    """
    field = FIELD[task]
    value = body.get(field)
    if task is Task.CHAT:
        if not isinstance(value, list) or not value or not all(isinstance(message, dict) for message in value):
            raise BadRequest("'messages' must be a non-empty list of objects with 'role' and 'content'")
    elif not isinstance(value, str | list) or value == []:
        raise BadRequest(f"'{field}' must be a string or a non-empty list")
