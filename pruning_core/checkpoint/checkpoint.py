"""Model weights on disk, read one tensor at a time: a model never has to fit into memory."""

import difflib
import json
import math
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pruning_core.checkpoint.durable_files import file_sha256
from pruning_core.checkpoint.safetensors_format import TensorEntry, read_header
from pruning_core.errors import InputError

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


class Checkpoint:
    """The tensors of a model directory: `model.safetensors`, or the shards that its index names.

    Opening reads the headers only, and guarantees that every file can hold what its header promises.

    Args:
        directory: a model directory.
        file: read this one safetensors file of the directory instead.

    Raises:
        InputError: no weights, pickled weights, a missing shard, or a truncated or damaged file.
    """

    def __init__(self, directory: Path | str, file: str = SINGLE_FILE) -> None:
        self.directory = Path(directory)
        self.files = _weight_files(self.directory, file)
        headers = {path: read_header(path) for path in self.files}
        self._sharded = self.files[0].name != file
        if self._sharded:
            _check_index(self.directory, headers)
        self._home = {name: path for path, entries in headers.items() for name in entries}
        self._entries = {name: entry for entries in headers.values() for name, entry in entries.items()}

    def names(self) -> list[str]:
        """All tensor names, sorted."""
        return sorted(self._entries)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of the stored tensor."""
        return self._entry(name).shape

    def dtype(self, name: str) -> torch.dtype:
        """Stored dtype."""
        return self._entry(name).dtype

    def bytes(self, name: str) -> int:
        """Stored size in bytes."""
        return self._entry(name).bytes

    def load(self, name: str) -> Tensor:
        """The tensor on the CPU in its stored dtype; independent of the file from then on."""
        self._entry(name)
        return self._read(self._home[name], [name])[name]

    def load_prefix(self, prefix: str) -> dict[str, Tensor]:
        """Full name -> tensor for everything under a module such as "model.layers.1".

        Raises:
            InputError: nothing lies under the prefix.
        """
        stem = prefix.rstrip(".") + "."
        by_file: dict[Path, list[str]] = defaultdict(list)
        for name in self.names():
            if name.startswith(stem):
                by_file[self._home[name]].append(name)
        if not by_file:
            raise InputError(f"{self.directory} holds no tensor under {prefix!r}{self._nearest(prefix)}")
        tensors: dict[str, Tensor] = {}
        for path, names in by_file.items():
            tensors |= self._read(path, names)
        return tensors

    @property
    def all_files(self) -> list[Path]:
        """Every weight file, and the index where there are shards, sorted."""
        return sorted([*self.files, self.directory / INDEX_FILE] if self._sharded else self.files)

    @property
    def parameters(self) -> int:
        """Numbers stored, of all tensors."""
        return sum(math.prod(entry.shape) for entry in self._entries.values())

    def digest_files(self, hash_file: Callable[[Path], str] = file_sha256) -> dict[str, str]:
        """File name -> SHA-256 of every weight file and of the index; `hash_file` may be a caching hasher."""
        return {path.name: hash_file(path) for path in self.all_files}

    def _entry(self, name: str) -> TensorEntry:
        if name not in self._entries:
            raise InputError(f"{self.directory} holds no tensor {name!r}{self._nearest(name)}")
        return self._entries[name]

    def _nearest(self, name: str) -> str:
        close = difflib.get_close_matches(name, self._entries, n=1)
        return f"; the nearest of its {len(self._entries)} tensors is {close[0]!r}" if close else ""

    @staticmethod
    def _read(path: Path, names: list[str]) -> dict[str, Tensor]:
        # A mapped tensor would keep the file mapped, and kill the process if the file were cut: hence clone.
        try:
            with safe_open(path, framework="pt", device="cpu") as file:
                return {name: file.get_tensor(name).clone() for name in names}
        except SafetensorError as error:
            raise InputError(f"{path} cannot be read: {error}") from error


def _weight_files(directory: Path, single: str) -> tuple[Path, ...]:
    if not directory.is_dir():
        raise InputError(f"{directory} is not a directory; a model is a directory with {SINGLE_FILE}")
    if (directory / single).is_file():
        return (directory / single,)
    if single != SINGLE_FILE:
        raise InputError(f"{directory} has no {single}")
    if not (directory / INDEX_FILE).is_file():
        raise InputError(_why_no_weights(directory))
    files = tuple(directory / shard for shard in sorted(set(_weight_map(directory).values())))
    missing = [path.name for path in files if not path.is_file()]
    if missing:
        raise InputError(
            f"{directory} lacks {missing[0]} ({len(missing)} of the {len(files)} shards named by {INDEX_FILE}"
            " are missing); copy or download the missing files"
        )
    return files


def _why_no_weights(directory: Path) -> str:
    pickles = sorted(path.name for pattern in PICKLES for path in directory.glob(pattern))
    if pickles:
        return (
            f"{directory} holds only pickled weights ({pickles[0]}), which can run code when loaded;"
            " if you trust them, convert them to safetensors: AutoModelForCausalLM.from_pretrained(...)"
            ".save_pretrained(..., safe_serialization=True)"
        )
    shards = sorted(path.name for path in directory.glob("model-*.safetensors"))
    if shards:
        return f"{directory} holds shards ({shards[0]}) without {INDEX_FILE}; copy or download the index too"
    return f"{directory} holds no weights; expected {SINGLE_FILE} or {INDEX_FILE} with its shards"


def _weight_map(directory: Path) -> dict[str, str]:
    path = directory / INDEX_FILE
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path} is not JSON ({error}); download or save the model again") from error
    weights = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weights, dict) or not weights or not all(isinstance(v, str) for v in weights.values()):
        raise InputError(f"{path} has no weight_map of tensor names to file names; save the model again")
    # A shard elsewhere would let a downloaded index read any file of this machine.
    outside = [shard for shard in weights.values() if Path(shard).name != shard]
    if outside:
        raise InputError(f"{path} names the shard {outside[0]!r}; shards must lie beside the index")
    return weights


def _check_index(directory: Path, headers: dict[Path, dict[str, TensorEntry]]) -> None:
    stored = {(name, path.name) for path, entries in headers.items() for name in entries}
    indexed = set(_weight_map(directory).items())
    for name, shard in sorted(stored ^ indexed):
        fault = "holds, unlike the index," if (name, shard) in stored else "lacks, unlike the index,"
        raise InputError(
            f"{directory / shard} {fault} the tensor {name!r}; {INDEX_FILE} and the shards are not of one"
            " model: download or save the model again"
        )
