"""Nothing is left half-created or half-updated, wherever the process ends."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("store", ["file", "postgres"])
def test_a_change_that_is_killed_at_any_line_is_made_as_a_whole_or_not_at_all(
    store: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """And the same change, sent again by the next process, is made."""
    url = [request.getfixturevalue("postgres")] if store == "postgres" else []
    program = [sys.executable, "-W", "error", "-m", "tests.endpoints.crashing", str(tmp_path), *url]

    ran = subprocess.run(program, capture_output=True, text=True, timeout=300)
    found = json.loads(ran.stdout or "{}")

    assert ran.returncode == 0, ran.stderr
    assert found["wrong"] == []
    assert found["tries"] > 100
