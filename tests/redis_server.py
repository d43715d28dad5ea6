"""The Redis of LLMOPS_TEST_REDIS_URL; tests keep to keys of their own, so nothing else in it is touched.

Where there is no such server, see `tests.services`.
"""

import uuid

from tests.services import service


def redis_url() -> str:
    """The server's URL; skips the test where there is none."""
    return service("LLMOPS_TEST_REDIS_URL", "redis://127.0.0.1:6379/15")


def own_name() -> str:
    """An endpoint's name that no other test has: counts are shared by name."""
    return f"limited-{uuid.uuid4().hex}"
