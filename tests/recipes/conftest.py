"""The recipes as a user gets them: read from their file, over params.yaml."""

from pathlib import Path
from typing import Any

import pytest

from tasks.workspace.params import read_params

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def papers() -> dict[str, dict[str, Any]]:
    """The variants of all recipe files by name."""
    files = ("papers", "quantize-pruned")
    found = [read_params(ROOT / "params.yaml", [f"@recipes/{file}.yaml"])["variants"] for file in files]
    return found[0] | found[1]
