"""The recipes as a user gets them: read from their file, over params.yaml."""

from pathlib import Path
from typing import Any

import pytest

from tasks.params import read_params

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def papers() -> dict[str, dict[str, Any]]:
    """The variants of recipes/papers.yaml by name."""
    return read_params(ROOT / "params.yaml", ["@recipes/papers.yaml"])["variants"]
