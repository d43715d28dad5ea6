"""The texts of an embeddings request, and vectors on the wire."""

import base64
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmops.errors import BadRequest
from llmops.protocol import embeddings


def test_one_text_is_a_list_of_one() -> None:
    assert embeddings.texts({"input": "a"}) == ["a"]
    assert embeddings.texts({"input": ["a", ""]}) == ["a", ""]


@pytest.mark.parametrize("given", [None, [], 7, [1, 2], ["a", 1], [["a"]], {"text": "a"}])
def test_anything_else_is_refused_by_name(given: object) -> None:
    with pytest.raises(BadRequest, match="'input' must be"):
        embeddings.texts({"input": given})


def test_the_prompt_is_the_texts_that_are_there() -> None:
    assert embeddings.prompt_text({"input": ["a", "b"]}) == "a\nb"
    assert embeddings.prompt_text({"input": [1, 2]}) == ""
    assert embeddings.prompt_text({}) == ""


@settings(deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False), max_size=20))
def test_a_vector_is_written_as_little_endian_floats(vector: list[float]) -> None:
    written = base64.b64decode(embeddings.encode(vector))

    assert list(struct.unpack(f"<{len(vector)}f", written)) == vector
