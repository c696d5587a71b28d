"""The small files of a model directory: architecture and tokenizer."""

import json
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import CONFIG_MAPPING, AutoConfig, AutoTokenizer, PretrainedConfig, PreTrainedTokenizerBase

from pruning_core.errors import InputError


def read_config(path: Path, *, trust_remote_code: bool = False) -> PretrainedConfig:
    """The config.json of a model directory.

    Raises:
        InputError: absent, not JSON, an unknown architecture, or one that needs code that is not trusted.
    """
    settings = _read_json(path / "config.json")
    kind = settings.get("model_type")
    if "auto_map" in settings and kind not in CONFIG_MAPPING and not trust_remote_code:
        raise InputError(
            f"{path} needs Python code that comes with the model; read it, then allow it with trust_remote_code: true"
        )
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(
            path, local_files_only=True, trust_remote_code=trust_remote_code
        )
    except (OSError, ValueError, KeyError, AttributeError, StrictDataclassError) as error:
        # AttributeError: a key that the architecture derives and does not take. A config that is not valid as a whole
        # says why in the cause alone.
        reason = first_line(error.__cause__ or error if isinstance(error, StrictDataclassError) else error)
        raise InputError(f"transformers cannot read {path / 'config.json'} (model_type {kind!r}): {reason}") from error
    return config


def read_tokenizer(path: Path, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer of a model directory; InputError when its files are absent or damaged."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        # The tokenizers library answers damaged JSON with a bare Exception.
        if (path / name).exists():
            _read_json(path / name)
    try:
        return AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"transformers cannot read the tokenizer of {path}: {first_line(error)}") from error


def first_line(error: BaseException) -> str:
    """The first line of an error's message, for use inside a sentence."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InputError(f"{path.parent} has no {path.name}; a model directory needs one (copy or download it)")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path} is not JSON ({error}); copy or download it again") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} is not a JSON object; copy or download it again")
    return content
