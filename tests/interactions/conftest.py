"""A data directory with an initialised MLflow database: made once for a run of the tests, which takes seconds."""

import shutil
from pathlib import Path

import pytest

from llmops.settings import Settings


@pytest.fixture
def settings(tmp_path: Path, mlflow_template: Path) -> Settings:
    """Settings of a data directory of this test's own."""
    shutil.copy(mlflow_template, tmp_path / "mlflow.db")
    return Settings(data_dir=tmp_path)
