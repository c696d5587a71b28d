"""A reader with an empty folder, for one tutorial."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from reader import follow


@pytest.fixture
def read(tmp_path: Path, environment, espalier) -> Callable[..., None]:
    """read(*pages): follows them in an empty folder."""
    return partial(follow, tmp_path, environment, espalier)
