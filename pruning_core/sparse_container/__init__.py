"""Espalier's own container for sparse and quantized sparse weights, each tensor in the encoding that suits it.

docs/formats.md holds the layout bit by bit. A reader trusts nothing: neither the index, nor the headers of the shards,
nor what the tensors in them say.
"""

from typing import Literal, get_args

Format = Literal["espalier-sparse"]
FORMAT: str = get_args(Format)[0]
VERSION = 1
INDEX = "sparse_container.json"
SHARD_NAME = r"sparse-[0-9]{5}-of-[0-9]{5}\.safetensors"
"""No stock loader takes such files for a dense model, and no name of a file leads out of the directory."""
EXPANSION = 256
"""At most so many bytes of a dense tensor per stored byte: a crafted file cannot ask for more memory than that."""
