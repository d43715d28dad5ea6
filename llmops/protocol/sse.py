"""Server-sent events: bytes in, the data of each event out.

A stream arrives in arbitrary pieces: a piece may end inside a line, a character or a line ending. Only ``data`` is
kept; comments, ``event:``, ``id:`` and ``retry:`` lines are dropped, because MLflow's client raises on them.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
"""

DONE = b"[DONE]"
#: One event may not be larger: a hostile upstream must not fill memory.
MAX_EVENT_BYTES = 16 * 1024 * 1024


def encode(data: bytes) -> bytes:
    """Write one event with one ``data`` line.

    Args:
        data: Without line breaks (JSON has none).
    """
    return b"data: " + data + b"\n\n"


def named(name: str, data: bytes) -> bytes:
    """Write one event with its name, for the wires whose clients go by it; MLflow's client cannot read it.

    Args:
        data: Without line breaks.
    """
    return b"event: " + name.encode() + b"\ndata: " + data + b"\n\n"


class Decoder:
    """Collects pieces of a stream and gives the data of each complete event."""

    def __init__(self) -> None:
        self._line = bytearray()  # Grows in place: a large event arrives in many pieces.
        self._data: list[bytes] = []
        self._data_bytes = 0
        self._after_cr = False

    def feed(self, piece: bytes) -> list[bytes]:
        """Take the next piece.

        Args:
            piece: Of any length, split anywhere.

        Returns:
            The data of the events this piece completed, in order; often none or several.

        Raises:
            ValueError: The lines of one event, or a line, are larger than MAX_EVENT_BYTES.
        """
        if not piece:
            return []
        if not (self._line or self._data or self._after_cr) and (whole := _one_event(piece)) is not None:
            return [whole]
        first, *others = self._split(piece)
        self._extend(first)
        events = []
        for line in others:
            if (event := self._end()) is not None:
                events.append(event)
            self._extend(line)
        return events

    def close(self) -> list[bytes]:
        """End the stream: an event whose blank line never came is still given, as every client does."""
        return self.feed(b"\n\n") if self._line or self._data else []

    def _split(self, piece: bytes) -> list[bytes]:
        """Cut at line ends. A CR ends its line at once; the LF of a CRLF that was cut in two is then skipped."""
        if self._after_cr:
            piece = piece.removeprefix(b"\n")
        self._after_cr = piece.endswith(b"\r")
        return piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")

    def _extend(self, part: bytes) -> None:
        self._line += part
        if self._data_bytes + len(self._line) > MAX_EVENT_BYTES:
            raise ValueError(f"one event is larger than {MAX_EVENT_BYTES} bytes")

    def _end(self) -> bytes | None:
        """End the line; returns the data of the event that ends with it, if one does."""
        line = bytes(self._line)
        self._line.clear()
        if line.startswith(b"data:"):
            self._data.append(line[6:] if line[5:6] == b" " else line[5:])
            self._data_bytes += len(line)
        if line or not self._data:
            return None
        event = b"\n".join(self._data)
        self._data, self._data_bytes = [], 0
        return event


def _one_event(piece: bytes) -> bytes | None:
    """The common case without splitting: one piece that is exactly one ``data: …`` event."""
    if not piece.startswith(b"data: ") or not piece.endswith(b"\n\n") or len(piece) > MAX_EVENT_BYTES:
        return None
    data = piece[6:-2]
    return None if b"\n" in data or b"\r" in data else data
