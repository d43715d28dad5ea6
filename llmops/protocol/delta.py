"""Deltas: what the chunks of one streamed reply have in common, whatever they carry."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Chunk = Mapping[str, Any]

#: Strings that come whole: some servers repeat them in every chunk, or send them empty.
_WHOLE = frozenset({"role", "id", "type"})


def head(chunks: Sequence[Chunk]) -> dict[str, Any]:
    """The fields of the reply itself: of each the last value that is not null.

    Raises:
        ValueError: chunks is empty.
    """
    if not chunks:
        raise ValueError("a reply has at least one chunk")
    return {key: value for chunk in chunks for key, value in chunk.items() if key != "choices" and value is not None}


def pieces(chunks: Sequence[Chunk]) -> Iterator[tuple[int, Chunk]]:
    """Every piece of every choice, in arrival order, with the index of its choice; 0 where it names none."""
    for chunk in chunks:
        choices = chunk.get("choices")
        for piece in choices if isinstance(choices, list) else ():
            if isinstance(piece, Mapping):
                index = piece.get("index")
                yield (index if isinstance(index, int) else 0), piece


def join(into: dict[str, Any], delta: Chunk) -> None:
    """Add a delta to what came before it.

    Args:
        into: Changed: strings and lists grow, objects are joined field by field, everything else is replaced. A null
            changes nothing.
    """
    for key, value in delta.items():
        kept = into.get(key)
        if value is None:
            into.setdefault(key, None)
        elif isinstance(value, Mapping):
            into[key] = kept if isinstance(kept, dict) else {}
            join(into[key], value)
        elif isinstance(value, list) and isinstance(kept, list):
            kept.extend(value)
        elif isinstance(value, str) and isinstance(kept, str) and key in _WHOLE:
            into[key] = value or kept
        elif isinstance(value, str) and isinstance(kept, str):
            # Let go of first, so that CPython grows it in place: joining a long answer would take quadratic time.
            into[key] = None
            kept += value
            into[key] = kept
        else:
            into[key] = list(value) if isinstance(value, list) else value
