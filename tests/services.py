"""What tests need and users' machines may not have: a database server, a browser, a right.

Without it a test is skipped, with what to do as the reason; where LLMOPS_TEST_SERVICES is `required`, as in CI, a skip
is a failure.
"""

import os
from typing import NoReturn

import pytest


def missing(reason: str) -> NoReturn:
    """End the test that needs something: skipped, or failed in CI.

    Args:
        reason: What it needs, and how to get it.
    """
    if os.environ.get("LLMOPS_TEST_SERVICES") == "required":
        pytest.fail(reason)
    pytest.skip(reason)


def service(variable: str, example: str) -> str:
    """The URL in an environment variable; ends the test where there is none.

    Args:
        example: Such a URL.
    """
    url = os.environ.get(variable)
    if not url:
        missing(f"needs a server: set {variable}={example}")
    return url
