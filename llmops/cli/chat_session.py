"""The conversation of a chat: what was said so far, to which endpoint, under which session."""

from collections.abc import Callable
from dataclasses import dataclass
from uuid import uuid4

from llmops.client import Client, Document, Facts
from llmops.protocol.chat import delta_text


@dataclass(frozen=True, slots=True)
class Turn:
    """One question that was answered, wholly or in part.

    Attributes:
        stopped: Whether the user stopped the answer.
    """

    stopped: bool
    facts: Facts


class Conversation:
    """One conversation with a model. It may go on with another endpoint.

    Attributes:
        endpoint: Who is asked next.
        system: What the model is told before everything else; empty for nothing.
        parameters: Sent with every question: temperature, max_tokens, …
        session: Sent with every question, so that MLflow groups the turns.
    """

    def __init__(self, client: Client, endpoint: str) -> None:
        self.client = client
        self.endpoint = endpoint
        self.system = ""
        self.parameters: Document = {}
        self.clear()

    def clear(self) -> None:
        """Forget what was said; what follows is a new session."""
        self._messages: list[Document] = []
        self.session = uuid4().hex

    def ask(self, question: str, show: Callable[[str], None]) -> Turn:
        """Ask, and show the answer's text piece by piece as it comes.

        Ctrl-C while it comes stops it, here and upstream; what came is kept. Where no text came, by Ctrl-C or by a
        failure, the conversation is what it was before.

        Raises:
            CommandError: The turn failed.
            KeyboardInterrupt: Ctrl-C before the answer began.
        """
        asked = [*self._messages, {"role": "user", "content": question}]
        told = [{"role": "system", "content": self.system}] if self.system else []
        body = {**self.parameters, "messages": [*told, *asked]}
        pieces: list[str] = []
        stopped = False
        with self.client.stream(self.endpoint, body, self.session) as reply:
            try:
                for chunk in reply:
                    text = delta_text(chunk)
                    pieces.append(text)
                    show(text)
            except KeyboardInterrupt:
                stopped = True
        answer = "".join(pieces)
        if answer:
            self._messages = [*asked, {"role": "assistant", "content": answer}]
        return Turn(stopped, reply.facts)
