"""What formats of a single weights file have in common: what such a write is made of, and its facts."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import numpy as np

from pruning_core.checkpoint.stored_model import StoredModel


def origin_of(model: StoredModel) -> str:
    """Tells a model from others of its shapes by the state of its files, without reading them."""
    files = {file.name: file.stat() for file in sorted(model.directory.glob("*.safetensors"))}
    states = {name: [stat.st_size, stat.st_mtime_ns] for name, stat in files.items()}
    state = [states, [asdict(matrix) for matrix in model.matrices]]
    return hashlib.sha256(json.dumps(state).encode()).hexdigest()


def tensor_facts(kind: str, own: bool, before: np.ndarray, after: np.ndarray) -> dict[str, Any]:
    """Of one tensor: `type`, `own_codes` (whether it holds the variant's) and `zeros`, `before`, `kept` of these, and
    all `after`.

    before, after: where the weight is zero in the variant, and as the file gives it.
    """
    masks = {"before": before, "kept": before & after, "after": after}
    zeros = {when: int(np.count_nonzero(mask)) for when, mask in masks.items()}
    return {"type": kind, "own_codes": own, "zeros": zeros}


def summed_facts(tensors: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Of all tensors, from those of each."""
    types: dict[str, int] = {}
    zeros = {"before": 0, "kept": 0, "after": 0}
    own_codes = 0
    for facts in tensors:
        types[facts["type"]] = types.get(facts["type"], 0) + 1
        own_codes += facts["own_codes"]
        for when, count in facts["zeros"].items():
            zeros[when] += count
    return {"types": types, "matrices_with_own_codes": own_codes, "zeros": zeros}
