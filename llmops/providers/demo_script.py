"""A conversation after a script: keywords with ranks, patterns, replies that turn your own words around, and a memory.

The method is ELIZA's; the script, demo_script.yaml, is our own and explains its notation. Nothing is kept between
calls: what there is to remember is in what was said earlier in the same conversation.

Source: J. Weizenbaum, ELIZA, Communications of the ACM 9(1), 1966, https://doi.org/10.1145/365153.365168
"""

import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Self

import yaml

from llmops.providers.demo_arithmetic import calculate

#: How much is read of what was said, and of a clause of it, so that a book takes no longer than a page.
MAX_CHARACTERS, MAX_WORDS = 2000, 60
#: How many earlier turns are remembered, and how much of each.
MAX_EARLIER, MAX_EARLIER_CHARACTERS = 16, 250

_BREAK = re.compile(r"[.!?;:,]+(?=\s|$)|[\r\n]+|\s(?:[-–—]+|but)\s")
_WORD = re.compile(r"\b[A-Za-zÀ-ÿ][\w'-]{3,}")
_CLEAN = str.maketrans({"’": "'"} | dict.fromkeys('"“”„«»()[]{}<>*_`', " "))


@dataclass(frozen=True, slots=True)
class Rule:
    """One way to answer.

    Attributes:
        match: What the clause must look like; its groups are the words kept.
        recall: What a clause of an earlier turn must look like, then its groups are kept; None asks for nothing.
    """

    match: re.Pattern[str]
    recall: re.Pattern[str] | None
    say: tuple[str, ...]

    def keep(self, clause: str, earlier: Sequence[str]) -> tuple[str, ...] | None:
        """The words kept; None where the rule does not fit."""
        found = self.match.fullmatch(clause)
        if found and self.recall:
            said = (part for text in reversed(earlier) for part in clauses(text))
            found = next(filter(None, map(self.recall.fullmatch, said)), None)
        return tuple(group.strip() for group in found.groups()) if found else None


@dataclass(frozen=True, slots=True)
class Keyword:
    """Words that call up rules; of several found the one with the highest rank goes first."""

    rank: int
    rules: tuple[Rule, ...]


class Script:
    """A compiled script; safe in many threads at once.

    Args:
        document: As demo_script.yaml.
    """

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._keywords: dict[str, Keyword] = {}
        for entry in document["keywords"]:
            keyword = Keyword(entry["rank"], _rules(entry["rules"]))
            self._keywords |= dict.fromkeys(entry["words"], keyword)
        self._finder = re.compile(rf" ({_any_of(self._keywords)})(?= |$)")
        self._turned: dict[str, str] = document["turned"]
        self._turned_last: dict[str, str] = document["turned_last"]
        self._turner = re.compile(rf"\b(?:{_any_of(self._turned)})\b", re.IGNORECASE)
        self._plain = frozenset(document["plain"].split())
        self._memory = _rules(document["memory"])
        self._replies: dict[str, list[str]] = {key: document[key] for key in ("opening", "sums", "topic", "nothing")}

    @classmethod
    @cache
    def shipped(cls) -> Self:
        """The script of the demo endpoint; takes some 50 ms to read and compile, so all its endpoints share one."""
        text = resources.files("llmops.providers").joinpath("demo_script.yaml").read_bytes()
        return cls(yaml.safe_load(text))

    def reply(self, said: Sequence[str], variant: int = 0) -> str:
        """Answer the last of what was said.

        Args:
            said: What the other side said, oldest first; without any the script opens the conversation.
            variant: Another number gives another reply where the script has several.

        Returns:
            One or more sentences, the same for the same arguments.
        """
        if not said:
            return self._replies["opening"][0]
        text = said[-1][:MAX_CHARACTERS]
        earlier = [turn[:MAX_EARLIER_CHARACTERS] for turn in said[-1 - MAX_EARLIER : -1]]
        pick = zlib.crc32(text.encode(errors="replace")) + len(said) + variant
        if (result := calculate(text)) is not None:
            return self._phrase(self._replies["sums"], pick, result)
        for clause, rule in self._candidates(text):
            if (kept := rule.keep(clause, earlier)) is not None:
                return self._phrase(rule.say, pick, kept)
        topic = self._topic(text)
        return self._phrase(self._replies["topic" if topic else "nothing"], pick, topic)

    def _candidates(self, text: str) -> Iterator[tuple[str, Rule]]:
        heard = clauses(text)
        found = [(clause, self._keywords[word]) for clause in heard for word in self._finder.findall(clause.lower())]
        found.sort(key=lambda pair: -pair[1].rank)
        yield from ((clause, rule) for clause, keyword in found for rule in keyword.rules)
        yield from ((clause, rule) for clause in heard[:1] for rule in self._memory)

    def _topic(self, text: str) -> tuple[str, ...]:
        words = [word for word in _WORD.findall(text) if word.lower() not in self._plain]
        return (max(words, key=len),) if words else ()

    def _phrase(self, say: Sequence[str], pick: int, kept: Sequence[str]) -> str:
        turned = (self._turner.sub(self._turn, words) for words in kept)
        return say[pick % len(say)].format("", *turned, said=("", *kept))

    def _turn(self, found: re.Match[str]) -> str:
        word = found[0].lower()
        if found.end() == len(found.string) and word in self._turned_last:
            return self._turned_last[word]
        # Ignoring case, "i" also matches letters whose lower case is another (the Turkish ones): they stay.
        return self._turned.get(word, found[0])


def clauses(text: str) -> list[str]:
    """The clauses of a text, each word with a space before it, without quotes, brackets and marks at their ends."""
    parts = (part.split()[:MAX_WORDS] for part in _BREAK.split(text.translate(_CLEAN)))
    return ["".join(f" {word}" for word in words) for words in parts if words]


def compiled(pattern: str) -> re.Pattern[str]:
    """A pattern of the script as one to match a whole clause with."""
    kinds = {"*": r"(?: \S+)*?", "+": r"((?: \S+)+?)"}
    tokens: list[str] = re.findall(r"\[[^]]*\]|\S+", pattern)
    parts = (
        f"( (?:{_any_of(t[1:-1].split('|'))}))" if t[0] == "[" else kinds.get(t, " " + re.escape(t)) for t in tokens
    )
    return re.compile("".join(parts), re.IGNORECASE)


def _any_of(words: Iterable[str]) -> str:
    return "|".join(map(re.escape, sorted(words, key=len, reverse=True)))


def _rules(entries: Iterable[Mapping[str, Any]]) -> tuple[Rule, ...]:
    return tuple(
        Rule(
            match=compiled(entry.get("match", "*")),
            recall=compiled(entry["recall"]) if "recall" in entry else None,
            say=tuple(" ".join(text.split()) for text in entry["say"]),
        )
        for entry in entries
    )
