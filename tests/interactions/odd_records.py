"""Interactions that are not usual: by hand, and drawn by Hypothesis."""

import json
from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from llmops.interactions.record import Attempt, Interaction
from llmops.protocol.task import Task
from llmops.protocol.usage import Usage
from tests.interactions.records import attempt, plain


def odd_ones() -> list[Interaction]:
    """What people send that is not usual."""
    check = {"name": "pii", "stage": "input", "verdict": "rewrite", "started_ms": 0.5, "duration_ms": 1.25}
    verdicts: tuple[dict[str, Any], ...] = (check, {})
    completion = '{"choices":[{"text":"thread"}]}'
    many = {f"p{number}": number for number in range(150)} | {
        "": 1,
        "..": [None],
        "a//b": {"c": "é"},
        "stop": ["x" * 7000],
    }
    return [
        replace(plain(), cost_usd=0.0000054, guardrails=verdicts),
        replace(plain(), task=Task.COMPLETIONS, request='{"prompt":"spool?"}', response=completion, cost_usd=0.0),
        replace(plain(), request='{"model":"gpt-4o","messages":[]}', attempts=(), cost_usd=None),
        replace(plain(), content="metadata", request="", response=None, params={}),
        replace(plain(), user="\0ada\0", session="\0", request='{"messages":[{"role":"user","content":"\\u0000"}]}'),
        replace(plain(), user="u" * 300, session="s" * 300, client_request_id="c" * 300, message="m" * 9000),
        replace(plain(), request='"{\\"model\\": \\"nested\\"}"', response='{"lone":"\\ud83d"}'),
        replace(plain(), request='{"model":NaN}', response="[1,2", session='"quoted"', user='{"json": true}'),
        replace(plain(), endpoint="no\0such" * 700, known=False, session="été 🧵 %_'"),
        replace(plain(), params=many, usage=Usage(input_tokens=2**62, output_tokens=0), session=None, user=None),
        replace(plain(), attempts=tuple(attempt(f"e{n}", error="status", decision="next") for n in range(12))),
        replace(plain(), request=json.dumps({"messages": [{"role": "user", "content": "long " * 200_000}]})),
        replace(plain(), attempts=(replace(attempt(), model='"m"', provider="[]"),), cost_usd=1.5),
    ]


_texts = st.text(max_size=12) | st.sampled_from(['"', '{"a":1}', "[]", '"{}"', "\0", "null", " \n[1]", "1"])
_maybe = st.none() | _texts
_leaves = st.none() | st.booleans() | st.floats() | st.integers() | _texts
_json = st.recursive(_leaves, lambda inner: st.lists(inner) | st.dictionaries(_texts, inner), max_leaves=5)
_chats = _texts.map(lambda text: {"model": text, "messages": [{"role": "user", "content": text}]})
_bodies = _texts | (_json | _chats).map(json.dumps)
_millis = st.floats(0, 1e7)
_counts = st.integers(0, 10**9)
_attempts = st.builds(
    Attempt,
    served_entity=_texts,
    provider=_texts,
    model=_texts,
    started_ms=_millis,
    duration_ms=_millis,
    status=st.none() | st.integers(100, 599),
    error=_maybe,
    message=_maybe,
    decision=st.sampled_from(["answered", "next", "final"]),
)
_usage = st.builds(Usage, input_tokens=_counts, output_tokens=_counts, cached_tokens=st.none() | _counts)
_values = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | _texts | st.lists(_texts, max_size=2)
_verdicts = st.fixed_dictionaries({"name": _maybe, "duration_ms": st.none() | _millis})
#: What may differ from one interaction to another; `replace` takes it.
FIELDS: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {
        "endpoint": _texts,
        "known": st.just(False),
        "stream": st.booleans(),
        "latency_ms": _millis,
        "status": st.integers(100, 599),
        "outcome": st.sampled_from(["answered", "failed", "cut", "abandoned"]),
        "request": _bodies,
        "response": st.none() | _bodies,
        "first_byte_ms": st.none() | _millis,
        "error_code": _maybe,
        "message": _maybe,
        "client_request_id": _maybe,
        "served_entity": _maybe,
        "provider": _maybe,
        "model": _maybe,
        "task": st.sampled_from([None, "other", *Task]),
        "user": _maybe,
        "session": _maybe,
        "usage": st.none() | _usage,
        "cost_usd": st.none() | st.floats(0, 100),
        "attempts": st.lists(_attempts, max_size=3).map(tuple),
        "params": st.dictionaries(_texts, _values, max_size=3),
        "usage_context": st.dictionaries(_texts, _texts, max_size=2),
        "guardrails": st.lists(_verdicts, max_size=2).map(tuple),
    }
)
