"""Model directories in any format that this package exports: which one it is, its files, and its weights as a model."""

import copy
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig

from pruning_core.checkpoint.checkpoint import Checkpoint
from pruning_core.checkpoint.file_names import MASKS
from pruning_core.export import FORMATS, Format, Tensors

PLAIN = "safetensors"
NOT_OF_THE_MODEL = {"README.md", "export.json", "manifest.json", "run.json"}
"""What lies beside an export and is told by it: the same weights under another card are the same model."""


def format_of(directory: Path) -> Format:
    """The format of a model directory; plain safetensors where no other one recognises it."""
    others = (FORMATS.build({"name": name}) for name in FORMATS.names() if name != PLAIN)
    return next((one for one in others if one.recognises(directory)), FORMATS.build({"name": PLAIN}))


def is_plain(directory: Path) -> bool:
    """Whether a directory holds weights that any loader reads as they are."""
    return format_of(directory).name == PLAIN


def check_weights(directory: Path) -> None:
    """Open every weights file of a model directory.

    Raises:
        InputError: none there, or one that is missing, pickled, truncated or crafted.
    """
    format_of(directory).read(directory)


def weight_files(directory: Path) -> list[Path]:
    """The files that the weights lie in, sorted.

    Raises:
        InputError: as `check_weights`, of plain safetensors.
    """
    if is_plain(directory):
        return Checkpoint(directory).all_files
    return sorted(file for file in directory.iterdir() if file.is_file() and file.name not in NOT_OF_THE_MODEL)


def weight_bytes(directory: Path) -> int:
    """Bytes of the files that the weights lie in, with the indices that say where; config, tokenizer and the masks
    beside dense weights do not count."""
    files = [
        file
        for suffix in ("*.safetensors", "*.gguf", "*.onnx*", "*.index.json", "*container.json")
        for file in directory.glob(suffix)
    ]
    return sum(file.stat().st_size for file in files if file.name != MASKS)


def pretrained_arguments(tensors: Tensors, config: PretrainedConfig) -> dict[str, Any]:
    """What `from_pretrained` of an architecture's class takes to get the weights of an export that it cannot read.

    Every weight is in memory, as the export's own reader `tensors` gives it.
    """
    # It would look for the package that reads the format.
    plain = copy.deepcopy(config)
    if hasattr(plain, "quantization_config"):
        del plain.quantization_config
    return {
        "pretrained_model_name_or_path": None,
        "config": plain,
        "state_dict": {name: tensors.load(name) for name in tensors.names()},
    }
