"""The Redis of LLMOPS_TEST_REDIS_URL; tests keep to keys of their own, so nothing else in it is touched.

Users' machines have no such server, and the tests are skipped there; where LLMOPS_TEST_SERVICES is `required`, as in
CI, a skip is a failure.
"""

import os
import uuid

import pytest


def redis_url() -> str:
    """The server's URL; skips the test where there is none."""
    server = os.environ.get("LLMOPS_TEST_REDIS_URL")
    if not server:
        reason = "needs a Redis server: set LLMOPS_TEST_REDIS_URL=redis://127.0.0.1:6379/15"
        if os.environ.get("LLMOPS_TEST_SERVICES") == "required":
            pytest.fail(reason)
        pytest.skip(reason)
    return server


def own_name() -> str:
    """An endpoint's name that no other test has: counts are shared by name."""
    return f"limited-{uuid.uuid4().hex}"
