"""What can be asked for."""

from typing import Any

import pytest

from llmops.errors import InvalidParameter
from llmops.interactions.logged import Wanted


@pytest.mark.parametrize(
    "wanted", [{"status": "7xx"}, {"status": "%"}, {"contains": ""}, {"contains": "x" * 2001}, {"user": "a\0b"}]
)
def test_what_cannot_be_looked_for_is_said(wanted: dict[str, Any]) -> None:
    with pytest.raises(InvalidParameter):
        Wanted(**wanted)
