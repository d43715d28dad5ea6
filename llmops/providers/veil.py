"""Takes keys out of what an upstream sent: some repeat the request they refuse, key and all.

A key is found in every form a program may have written it in: in JSON (once or twice), in a URL, in HTML. Looking for
a part that no form changes makes the common case, a key that is not there, one search.
"""

import json
import logging
import re
from collections.abc import Iterable, Iterator
from functools import cached_property

logger = logging.getLogger(__name__)

HIDDEN = b"***"
#: A shorter one stands for no key ("none", "EMPTY", "1") where a server asks for none: taking it out of an answer would
#: change the answer, and no server that needs a key takes one so short.
_LEAST_CHARS = 8
_NO_KEYS = frozenset({"not-needed", "not needed", "not-required", "placeholder", "undefined", "changeme"})
#: Of a secret of several lines, a PEM file for example, a shorter one says nothing.
_LEAST_LINE_CHARS = 16
#: No program writes these in another way.
_SAME = re.compile(r"[A-Za-z0-9_.-]+")
#: What Google gives for the key of a service account; it opens the same doors for an hour.
#: Source: https://cloud.google.com/docs/authentication/token-types
_GRANTED, _GRANTED_WAY = b"ya29.", rb"ya29\.[A-Za-z0-9_.-]+"
_NAMED = {'"': "quot", "&": "amp", "<": "lt", ">": "gt", "'": "apos"}


class Veil:
    """Hides some secrets.

    Args:
        secrets: As they are kept. Of a service account's JSON file only the private key is one. A word that stands for
            no key is none.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        given = [secret for secret in secrets if not _is_none(secret)]
        self._parts = [part for secret in given for part in _parts(secret)]
        self._grants = any(_private(secret) for secret in given)
        self._cores = [max(_SAME.findall(part), key=len, default="").encode() for part in self._parts]
        if self._grants:
            self._cores.append(_GRANTED)

    def __repr__(self) -> str:
        return f"Veil({len(self._parts)})"

    def hide(self, data: bytes) -> bytes:
        """The bytes without the secrets; JSON stays JSON."""
        for core in self._cores:
            if core in data:
                return self._written.sub(HIDDEN, data)
        return data

    def hide_text(self, text: str) -> str:
        """The text without the secrets."""
        return self.hide(text.encode("utf-8", "surrogatepass")).decode("utf-8", "surrogatepass")

    @cached_property
    def _written(self) -> re.Pattern[bytes]:
        # The longest first: one key may begin with another.
        ways = ["".join(map(_ways, part)).encode() for part in sorted(self._parts, key=len, reverse=True)]
        return re.compile(b"|".join([*ways, _GRANTED_WAY] if self._grants else ways))


class Veils:
    """Gives the veil of the secrets of a call; they are the same until a key is rotated.

    Args:
        who: The served entity, for the log.
    """

    def __init__(self, who: str) -> None:
        self._who = who
        self._known: tuple[tuple[str, ...], Veil] = ((), Veil(()))

    def over(self, *secrets: str) -> Veil:
        """The veil that hides these."""
        if self._known[0] != secrets:
            self._known = (secrets, Veil(secrets))
            if any(map(_is_none, secrets)):
                logger.warning("event=key_not_hidden served_entity=%s", self._who)
        return self._known[1]


def _is_none(secret: str) -> bool:
    return len(secret) < _LEAST_CHARS or secret.lower() in _NO_KEYS


def _parts(secret: str) -> Iterator[str]:
    """What of a secret must not be seen."""
    for text in _private(secret) or [secret]:
        lines = text.splitlines()
        if len(lines) == 1:
            yield text
        else:
            yield from (line for line in lines if len(line) >= _LEAST_LINE_CHARS and not line.startswith("-----"))


def _private(secret: str) -> list[str]:
    """What is secret in the file of a service account; nothing where it is none."""
    try:
        document = json.loads(secret) if secret.startswith("{") else None
    except ValueError:
        document = None
    named = document.items() if isinstance(document, dict) else ()
    return [value for name, value in named if name.startswith("private") and isinstance(value, str)]


def _ways(char: str) -> str:
    """A pattern of every way to write a character."""
    if _SAME.fullmatch(char):
        return re.escape(char)
    code = ord(char)
    ways = [rf"\\{{0,8}}{re.escape(char)}", rf"\\{{1,8}}u00(?i:{code:02x})", rf"%(?:25)*(?i:{code:02x})"]
    ways += [rf"&#0*{code};", rf"&#[xX]0*(?i:{code:x});"]
    if char in _NAMED:
        ways.append(f"&(?:amp;)*{_NAMED[char]};")
    if char == " ":
        ways.append(r"\+")
    return f"(?:{'|'.join(ways)})"
