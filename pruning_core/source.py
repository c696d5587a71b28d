"""The dense model that is to be compressed: a local directory or a snapshot of the Hugging Face hub."""

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from pruning_core.checkpoint.durable_files import file_sha256
from pruning_core.checkpoint.hub_snapshot import REMOTE_CODE, is_hub_id, snapshot
from pruning_core.checkpoint.model_files import first_line, read_config, read_tokenizer
from pruning_core.errors import ComputationError, InputError
from pruning_core.export.stored.recognise import check_weights, format_of, pretrained_arguments, weight_files
from pruning_core.model.context_length import context_length
from pruning_core.model.narrowed import model_class

VOCABULARIES = (
    "tokenizer.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "vocab.json",
    "vocab.txt",
    "*.tiktoken",
    "tekken.json",
)
TOKENIZER_FILES = (
    *VOCABULARIES,
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.*",
)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SETTINGS = ("config.json", "generation_config.json")


@dataclass(frozen=True)
class SourceModel:
    """A model directory that was found complete: config, safetensors and tokenizer are there and readable.

    Args:
        path: the directory.
        identity: JSON facts on where it came from: model as given, hub revision (commit), trust_remote_code.
        hash_file: hashes one file; may be a caching hasher.
    """

    path: Path
    identity: dict[str, Any]
    hash_file: Callable[[Path], str] = field(default=file_sha256, repr=False, compare=False)

    @cached_property
    def files(self) -> dict[str, str]:
        """Relative name -> SHA-256 of all that the model is made of; remote code counts when trusted."""
        patterns: tuple[str, ...] = (*SETTINGS, *TOKENIZER_FILES)
        if self.identity["trust_remote_code"]:
            patterns += (REMOTE_CODE,)
        paths = {path for pattern in patterns for path in self.path.glob(pattern) if path.is_file()}
        others = {path.name: self.hash_file(path) for path in paths}
        weights = {path.name: self.hash_file(path) for path in weight_files(self.path)}
        return dict(sorted((others | weights).items()))

    @cached_property
    def digest(self) -> str:
        """Hex SHA-256 over the sorted (relative name, SHA-256) pairs: equal models have equal digests."""
        return hashlib.sha256(json.dumps(sorted(self.files.items())).encode()).hexdigest()

    def config(self) -> PretrainedConfig:
        """The architecture."""
        return read_config(self.path, trust_remote_code=self.identity["trust_remote_code"])

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer.

        Raises:
            InputError: its files cannot be read.
        """
        return read_tokenizer(self.path, trust_remote_code=self.identity["trust_remote_code"])

    def context_length(self) -> int | None:
        """Tokens the model has positions for; None where the architecture sets no limit."""
        return context_length(self.config())


def resolve(
    model: str,
    *,
    trust_remote_code: bool = False,
    workspace: Path | str = ".",
    hash_file: Callable[[Path], str] = file_sha256,
) -> SourceModel:
    """Find the model and check that it is complete; no weights are loaded.

    Args:
        model: a directory (relative to `workspace` or absolute), or a hub id "org/name" or
            "org/name@revision". What exists as a directory is local.
        trust_remote_code: run Python that comes with the model; recorded in the identity.
        hash_file: hashes one file; pass a caching hasher where big files are hashed often.

    Raises:
        InputError: not found, not reachable, incomplete, pickled, damaged, or code that is not trusted.
    """
    local = Path(workspace) / Path(model).expanduser()
    revision = None
    if local.is_dir():
        path = local
    elif is_hub_id(model):
        path, revision = snapshot(model, with_code=trust_remote_code)
    else:
        raise InputError(
            f"the model directory {str(local)!r} does not exist, and {model!r} is no hub id such as"
            " org/name@revision; point `model:` to a directory with config, safetensors and tokenizer"
        )
    identity = {"model": model, "revision": revision, "trust_remote_code": trust_remote_code}
    source = SourceModel(path, identity, hash_file)
    _check_complete(source)
    return source


def _check_complete(source: SourceModel) -> None:
    source.config()
    check_weights(source.path)
    if not any(path.is_file() for pattern in VOCABULARIES for path in source.path.glob(pattern)):
        raise InputError(
            f"{source.path} has no tokenizer (expected one of {', '.join(VOCABULARIES)}); save it there with"
            " tokenizer.save_pretrained(...)"
        )


def load_model(path: Path | str, dtype: str = "float32", *, trust_remote_code: bool = False) -> PreTrainedModel:
    """The causal language model on the CPU, in eval mode, use_cache off; every weight is the file's.

    Args:
        path: a model directory.
        dtype: float32, bfloat16 or float16.
        trust_remote_code: run Python that comes with the model.

    Raises:
        InputError: the directory cannot be loaded, or its weights are not those of its config.
        ComputationError: a weight is NaN or infinite.
    """
    path = Path(path)
    if dtype not in DTYPES:
        raise InputError(f"{dtype!r} is not a dtype to load a model in; allowed: {', '.join(DTYPES)}")
    config = read_config(path, trust_remote_code=trust_remote_code)
    stored = format_of(path)
    tensors = stored.read(path)
    if stored.native:
        loader = model_class(config)
        weights = {"pretrained_model_name_or_path": path, "trust_remote_code": trust_remote_code}
    else:
        loader, weights = model_class(config, concrete=True), pretrained_arguments(tensors, config)
    try:
        with _without_bars():
            model, report = loader.from_pretrained(
                **weights,
                dtype=DTYPES[dtype],
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
                # Wrong shapes are reported below, with their names.
                ignore_mismatched_sizes=True,
                **_dequantizing(config),
            )
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise InputError(f"transformers cannot load {path}: {first_line(error)}") from error
    _check_report(path, report)
    _check_finite(path, model)
    model.config.get_text_config().use_cache = False
    evaluated: PreTrainedModel = model.eval()
    return evaluated


def _dequantizing(config: PretrainedConfig) -> dict[str, PretrainedConfig]:
    """The argument by which packed integers become weights as they are loaded, not in the first forward pass."""
    packed = getattr(config, "quantization_config", None)
    if not isinstance(packed, dict) or packed.get("quant_method") != "compressed-tensors":
        return {}
    config.quantization_config = packed | {"dequantize": True}
    return {"config": config}


@contextlib.contextmanager
def _without_bars() -> Iterator[None]:
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def _check_report(path: Path, report: dict[str, Any]) -> None:
    faults = {
        "missing_keys": "lacks the weight",
        "unexpected_keys": "has a weight that its config.json knows nothing of:",
        "mismatched_keys": "has a weight of another shape than its config.json asks for:",
    }
    for kind, fault in faults.items():
        if names := sorted(str(key[0] if isinstance(key, tuple) else key) for key in report[kind]):
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise InputError(f"{path} {fault} {names[0]}{more}; config.json and weights must be of one model")


def _check_finite(path: Path, model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            raise ComputationError(f"{path}: the weight {name} holds NaN or infinite values")
