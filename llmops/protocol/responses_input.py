"""The input of OpenAI's Responses as chat's messages.

Items that belong to one turn of the assistant (reasoning, text, function calls) become one message, as chat has it.

Source: https://platform.openai.com/docs/api-reference/responses/create#responses-create-input
"""

from typing import Any

from llmops.errors import BadRequest
from llmops.protocol import fields, parts
from llmops.protocol.fields import Fields
from llmops.protocol.parts import Part

_ROLES = ("user", "assistant", "system", "developer")


def messages(body: Fields) -> list[Part]:
    """The messages of a request, its instructions first.

    Raises:
        BadRequest: There is no input, or something in it chat cannot say; names it.
    """
    talk = _Talk()
    if body.get("instructions"):
        talk.say("system", fields.text(body, "instructions"))
    given = body.get("input")
    if isinstance(given, str):
        talk.say("user", given)
    elif not given:
        raise BadRequest("'input' must be a string or a non-empty list of items")
    else:
        for number, item in enumerate(fields.objects(given, "input")):
            talk.add(item, f"input[{number}]")
    return talk.messages()


class _Talk:
    """A conversation while its items are read."""

    def __init__(self) -> None:
        self._told: list[Part] = []
        #: The assistant's message while items are added to it.
        self._turn: Part | None = None
        #: What tools showed; told when all of them have answered.
        self._shown: list[Part] = []

    def messages(self) -> list[Part]:
        self._close()
        return self._told

    def say(self, role: str, content: str | list[Part]) -> None:
        self._close()
        self._told.append({"role": role, "content": content})

    def add(self, item: Fields, where: str) -> None:
        kind = item.get("type", "message")
        if kind == "message":
            self._message(item, where)
        elif kind == "function_call":
            self._call(item, where)
        elif kind == "function_call_output":
            self._output(item, where)
        elif kind == "reasoning":
            self._reason(item, where)
        else:
            raise fields.kind_refused(where, kind, "message, reasoning, function_call and function_call_output")

    def _message(self, item: Fields, where: str) -> None:
        role, content = item.get("role"), item.get("content")
        if role not in _ROLES:
            raise BadRequest(f"'{where}.role' must be one of {', '.join(_ROLES)}")
        if isinstance(content, str):
            found: list[Part] = [parts.text(content)]
        elif content is None:
            raise BadRequest(f"'{where}.content' must be a string or a list of parts")
        else:
            given = enumerate(fields.objects(content, f"{where}.content"))
            found = [_part(part, f"{where}.content[{number}]") for number, part in given]
        if role != "assistant":
            # Few servers besides OpenAI's own know a developer, and OpenAI's take a system for one.
            self.say("system" if role == "developer" else str(role), parts.content(found))
            return
        turn = self._begin()
        if turn["content"] is not None and "tool_calls" not in turn:
            self._close()
            turn = self._begin()
        self._speak(turn, found)

    def _speak(self, turn: Part, found: list[Part]) -> None:
        refusals = [part["refusal"] for part in found if part["type"] == "refusal"]
        words = [part["text"] for part in found if part["type"] == "text"]
        if len(refusals) + len(words) != len(found):
            raise BadRequest("an assistant's message holds 'output_text' and 'refusal' only")
        if words or not refusals:
            turn["content"] = (turn["content"] or "") + "".join(words)
        if refusals:
            turn["refusal"] = "".join(refusals)

    def _call(self, item: Fields, where: str) -> None:
        call_id, name, arguments = (fields.text(item, key, f"{where}.") for key in ("call_id", "name", "arguments"))
        call = {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
        self._begin().setdefault("tool_calls", []).append(call)

    def _reason(self, item: Fields, where: str) -> None:
        """Reasoning goes with the turn it belongs to; a summary, or what only OpenAI can read, goes nowhere."""
        given = fields.objects(item.get("content"), f"{where}.content")
        words = "".join(fields.text(part, "text", f"{where}.content.") for part in given)
        if words:
            if self._turn is not None and self._turn["content"] is not None and "tool_calls" not in self._turn:
                self._close()
            turn = self._begin()
            turn["reasoning_content"] = turn.get("reasoning_content", "") + words

    def _output(self, item: Fields, where: str) -> None:
        self._end_turn()
        given, call_id = item.get("output"), fields.text(item, "call_id", f"{where}.")
        if isinstance(given, str):
            words, pictures = given, []
        else:
            numbered = enumerate(fields.objects(given, f"{where}.output"))
            found = [_part(part, f"{where}.output[{number}]") for number, part in numbered]
            words = "\n".join(part["text"] for part in found if part["type"] == "text")
            pictures = [part for part in found if part["type"] != "text"]
        self._told.append({"role": "tool", "tool_call_id": call_id, "content": words})
        self._shown += parts.shown(pictures, [call_id] * len(pictures))

    def _begin(self) -> Part:
        if self._turn is None:
            self._close()
            self._turn = {"role": "assistant", "content": None}
        return self._turn

    def _end_turn(self) -> None:
        if self._turn is not None:
            spoke = self._turn.get("tool_calls") or self._turn.get("refusal")
            content = self._turn["content"] if spoke else self._turn["content"] or ""
            self._told.append({**self._turn, "content": content})
            self._turn = None

    def _close(self) -> None:
        self._end_turn()
        if self._shown:
            self._told.append({"role": "user", "content": self._shown})
            self._shown = []


def _part(part: Fields, where: str) -> Part:
    kind, at = part.get("type"), f"{where}."
    if kind in ("input_text", "output_text", "text"):
        return parts.text(fields.text(part, "text", at))
    if kind == "refusal":
        return {"type": "refusal", "refusal": fields.text(part, "refusal", at)}
    if part.get("file_id") is not None:
        raise BadRequest(f"'{at}file_id' is not served: files are not kept here; send the data itself")
    if kind == "input_image":
        detail: Any = part.get("detail")
        return parts.image(fields.text(part, "image_url", at), detail if isinstance(detail, str) else None)
    if kind == "input_file":
        if part.get("file_url") is not None:
            raise BadRequest(f"'{at}file_url' is not served: chat takes a file as data, in 'file_data'")
        name: Any = part.get("filename")
        return parts.file(fields.text(part, "file_data", at), name if isinstance(name, str) else None)
    if kind == "input_audio":
        return {"type": kind, kind: dict(fields.object_(part.get(kind), at + kind))}
    raise fields.kind_refused(where, kind, "input_text, input_image, input_file, input_audio and output_text")
