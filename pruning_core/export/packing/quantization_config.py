"""The key of config.json by which loaders know a quantized checkpoint."""

import json
from pathlib import Path
from typing import Any

KEY = "quantization_config"


def quantization_config(directory: Path) -> dict[str, Any]:
    """What config.json tells of quantization; nothing where it does not, or cannot be read."""
    try:
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    entry = config.get(KEY) if isinstance(config, dict) else None
    return entry if isinstance(entry, dict) else {}


def set_quantization_config(directory: Path, value: dict[str, Any]) -> None:
    """Enter it into the config.json that is there."""
    path = directory / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(config | {KEY: value}, indent=2, sort_keys=True) + "\n", encoding="utf-8")
