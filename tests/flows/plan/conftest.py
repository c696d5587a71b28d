"""Workspaces whose model is too large to have, and a machine of known size."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import LlamaConfig

from tasks.machine import free_resources


@pytest.fixture
def without_weights(tmp_path: Path, monkeypatch) -> Callable[..., Path]:
    """without_weights(sizes, length, variants) -> the current folder, a workspace whose model is a config.json alone.

    100 GB of memory and a TB of disk are free.
    """

    def write(sizes: dict[str, int], length: int, variants: dict[str, Any]) -> Path:
        LlamaConfig(**sizes, dtype="float16").save_pretrained(tmp_path / "model")
        params = {
            "model": "model",
            "calibration": {"text": {"name": "stdlib"}, "sequences": 64, "length": length},
            "evaluation": {"text": {"name": "stdlib"}, "length": length},
            "variants": variants,
        }
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(free_resources, "free_memory", lambda: 100_000_000_000)
        monkeypatch.setattr(free_resources, "free_disk", lambda folder: 10**12)
        return tmp_path

    return write
