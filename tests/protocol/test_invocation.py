"""A body that is refused, as it is written down."""

import pytest

from llmops.protocol.invocation import shown


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b'{"api_key": "sk-1", "prompt": "x"}', b'{"api_key":"***","prompt":"x"}'),
        (b'{"aws_secret_access_key": "sk-1"}', b'{"aws_secret_access_key":"***"}'),
        (b'{"headers": {"authorization": "sk-1"}}', b'{"headers":"***"}'),
        (b'{"extra_params": {"base_url": "http://sk-1"}}', b'{"extra_params":{"base_url":"***"}}'),
        (b'{"api_key": "sk-1", "prompt": ' + b"[" * 300 + b"]" * 300 + b"}", b""),
        (b'{ "prompt": "x", "stream": 1 }', b'{ "prompt": "x", "stream": 1 }'),
        (b'{"extra_params": "x"}', b'{"extra_params": "x"}'),
        (b"[1]", b"[1]"),
        (b"no JSON", b"no JSON"),
    ],
)
def test_what_a_refused_body_says_of_keys_is_left_out_and_the_rest_stays(raw: bytes, expected: bytes) -> None:
    assert shown(raw) == expected
