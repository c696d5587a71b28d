"""What all tests share."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Reference tensors and real models, which are not part of this repository."""
    if not SHARED.is_dir():
        pytest.skip("the reference data folder ../shared is not there")
    return SHARED
