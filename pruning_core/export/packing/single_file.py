"""What formats of a single weights file have in common: what such a write is made of, and what is told of it."""

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
    states = {name: [state.st_size, state.st_mtime_ns] for name, state in files.items()}
    known = [states, [asdict(matrix) for matrix in model.matrices]]
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()


def tensor_facts(kind: str, own: bool, before: np.ndarray, after: np.ndarray) -> dict[str, Any]:
    """Of one tensor: `type`, `own_codes` (whether it holds the variant's) and `zeros`, `before`, `kept` of these, and
    all `after`.

    before, after: where the weight is zero in the variant, and as the file gives it.
    """
    found = {"before": before, "kept": before & after, "after": after}
    zeros = {when: int(np.count_nonzero(places)) for when, places in found.items()}
    return {"type": kind, "own_codes": own, "zeros": zeros}


def summed_facts(tensors: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Of all tensors, from those of each."""
    facts = {"types": {}, "matrices_with_own_codes": 0, "zeros": {"before": 0, "kept": 0, "after": 0}}
    for told in tensors:
        facts["types"][told["type"]] = facts["types"].get(told["type"], 0) + 1
        facts["matrices_with_own_codes"] += told["own_codes"]
        for when, count in told["zeros"].items():
            facts["zeros"][when] += count
    return facts
