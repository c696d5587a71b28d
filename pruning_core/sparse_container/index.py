"""sparse_container.json: which tensors there are, in which encoding, and in which shard."""

import dataclasses
import json
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import pydantic
import pydantic.dataclasses
from pydantic import Field, StringConstraints, TypeAdapter

from pruning_core.checkpoint.safetensors_format import ADVICE
from pruning_core.errors import InputError
from pruning_core.registry import STRICT
from pruning_core.sparse_container import FORMAT, INDEX, SHARD_NAME, VERSION, Format
from pruning_core.sparse_container.bitmask import Bitmask
from pruning_core.sparse_container.codes import Codes
from pruning_core.sparse_container.csr import Csr
from pruning_core.sparse_container.dense import Dense
from pruning_core.sparse_container.entry import Count, Entry
from pruning_core.sparse_container.n_of_m import NOfM

INDEX_BYTES = 10**8
"""Of an index; a quarter of a million tensors take less."""
AnyEntry = Annotated[Dense | Bitmask | NOfM | Csr | Codes, Field(discriminator="encoding")]
ShardName = Annotated[str, StringConstraints(pattern=f"^{SHARD_NAME}$")]


class _Version(pydantic.BaseModel):
    """What every version of the index says."""

    model_config = STRICT | {"extra": "ignore"}
    format: Format
    version: int


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=STRICT)
class Index:
    """The whole index.

    files: shard -> bytes.
    tensors: name in the checkpoint -> how it is stored.
    """

    format: Format
    version: int
    files: Annotated[dict[ShardName, Count], Field(min_length=1)]
    tensors: Annotated[dict[str, AnyEntry], Field(min_length=1)]


def index_json(files: Mapping[str, int], tensors: Mapping[str, Entry]) -> str:
    """The text of the index."""
    entries = {name: dataclasses.asdict(entry) for name, entry in sorted(tensors.items())}
    index = {"format": FORMAT, "version": VERSION, "files": dict(files), "tensors": entries}
    return json.dumps(index, indent=2) + "\n"


def entry_of(fields: Mapping[str, Any]) -> Entry:
    """An entry from its fields as JSON has them."""
    return TypeAdapter(AnyEntry).validate_json(json.dumps(fields))


def read_index(directory: Path) -> Index:
    """The index of a container; what it says of the shards is still to be checked.

    Raises:
        InputError: absent, or not what an index is.
    """
    path = directory / INDEX
    if not path.is_file():
        raise InputError(f"{directory} holds no sparse container: it has no {INDEX}")
    if path.stat().st_size > INDEX_BYTES:
        raise InputError(f"{path} is damaged: an index has at most {INDEX_BYTES} bytes; {ADVICE}")
    raw = path.read_bytes()
    try:
        version = _Version.model_validate_json(raw).version
        if version != VERSION:
            raise InputError(f"{path} is of version {version}, and only {VERSION} can be read here; update Espalier")
        index = TypeAdapter(Index).validate_json(raw)
    except pydantic.ValidationError as error:
        raise InputError(f"{path} is damaged: {_first_fault(error)}; {ADVICE}") from None
    for name, entry in index.tensors.items():
        if entry.file not in index.files:
            raise InputError(
                f"{path} is damaged: tensor {name!r} lies in {entry.file!r}, which is none of its files; {ADVICE}"
            )
        if not entry.in_proportion:
            raise InputError(
                f"{path} is damaged: tensor {name!r} would take {entry.dense_bytes} bytes from {entry.bytes}; {ADVICE}"
            )
    return index


def _first_fault(error: pydantic.ValidationError) -> str:
    fault = error.errors(include_url=False, include_context=False)[0]
    place = ".".join(str(part) for part in fault["loc"])
    message = fault["msg"].removeprefix("Value error, ")
    return f"{place!r}: {message[:1].lower()}{message[1:]}, got {reprlib.repr(fault['input'])}"
