"""Records of finished variants as a flow makes them: six blocks of seven matrices, invented but plausible."""

import hashlib
import json
import math
import random
from pathlib import Path
from typing import Any

BLOCKS = 6
SHAPES = {
    "self_attn.q_proj": (192, 192),
    "self_attn.k_proj": (96, 192),
    "self_attn.v_proj": (96, 192),
    "self_attn.o_proj": (192, 192),
    "mlp.gate_proj": (512, 192),
    "mlp.up_proj": (512, 192),
    "mlp.down_proj": (192, 512),
}
DENSE_LOSS = 2.11
PROTOCOL = {"kind": "causal", "length": 256, "windows": 200, "special_tokens": False, "tokens": "4be1" * 16}

_UNSTRUCTURED = {"name": "unstructured", "scope": "block"}
RECIPES: dict[str, dict[str, Any]] = {
    "dense": {},
    "magnitude-50": {
        "saliency": {"name": "magnitude"},
        "pattern": {"name": "unstructured", "scope": "matrix"},
        "sparsity": 0.5,
        "compensation": {"name": "none"},
    },
    "wanda-50": {
        "saliency": {"name": "wanda"},
        "pattern": {"name": "unstructured", "scope": "row"},
        "sparsity": 0.5,
        "compensation": {"name": "none"},
        "propagate": "compressed",
    },
    "sparsegpt-50": {
        "saliency": {"name": "obs"},
        "pattern": _UNSTRUCTURED,
        "sparsity": 0.5,
        "compensation": {"name": "sweep", "block": 128, "damping": 0.01},
        "propagate": "compressed",
    },
    "sparsegpt-70": {
        "saliency": {"name": "obs"},
        "pattern": _UNSTRUCTURED,
        "sparsity": 0.7,
        "compensation": {"name": "sweep", "block": 128, "damping": 0.01},
        "propagate": "compressed",
    },
    "sparsegpt-2of4": {
        "saliency": {"name": "obs"},
        "pattern": {"name": "n_of_m", "n": 2, "m": 4},
        "compensation": {"name": "sweep"},
        "propagate": "compressed",
    },
}
INCREASE = {
    "dense": 0.0,
    "magnitude-50": 0.412,
    "wanda-50": 0.131,
    "sparsegpt-50": 0.082,
    "sparsegpt-70": 0.467,
    "sparsegpt-2of4": 0.203,
}


def digest(*words: object) -> str:
    """64 hex digits that depend on the words."""
    return hashlib.sha256(repr(words).encode()).hexdigest()


def make_records(root: Path, names: tuple[str, ...] = tuple(RECIPES)) -> list[dict[str, Any]]:
    """Records of the named variants, with their artifact directories made below `root`."""
    return [make_record(root, name) for name in names]


def make_record(root: Path, name: str) -> dict[str, Any]:
    """The record of one variant of RECIPES."""
    random_numbers = random.Random(name)
    recipe, increase = RECIPES[name], INCREASE[name]
    facts = {} if not recipe else _facts(name, recipe, random_numbers)
    manifest = {
        "kind": "variant",
        "key": digest(name, "key"),
        "digest": digest(name),
        "source": digest("code"),
        "versions": {"espalier": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0", "numpy": "2.4.6"},
        "facts": facts | {"size_bytes": {"stored": 11_210_752, "bitmask": 11_210_752 * (0.55 if recipe else 1)}},
    }
    model = _artifact(root, "variant", name, {"manifest.json": manifest})
    losses, difference, error = _losses(increase, random_numbers)
    evaluation = _artifact(root, "evaluation", name, {"windows.json": {"losses": losses}})
    loss = sum(losses) / len(losses)
    return {
        "name": name,
        "recipe": recipe,
        "model": model,
        "manifest": manifest,
        "evaluation": evaluation,
        "metrics": {
            "perplexity": math.exp(loss),
            "mean_loss": loss,
            "standard_error": 0.031,
            "kl_to_dense": increase * 0.8,
            "top1_agreement": 1 - increase * 0.9,
            "difference_to_dense": {"mean": difference, "standard_error": error},
            "windows": 200,
            "tokens": 51_000,
            "protocol": PROTOCOL | {"digest": digest("protocol")},
        },
        "speed": {
            "prefill_tokens_per_second": _rate(9200, random_numbers),
            "decode_tokens_per_second": _rate(410, random_numbers),
        },
        "parents": {"dense": {"kind": "source", "digest": digest("dense model")}}
        | ({"calibration": {"digest": digest("calibration tokens")}} if recipe else {}),
        "datasets": _datasets(bool(recipe)),
        "git_commit": "3f9d2c1ab84e0d7766f1c5b09e1a2d3c4b5a6978",
        "dvc": None if not recipe else {"md5": digest(name, "md5")[:32] + ".dir", "path": f"variants/{name}"},
        "steps": _steps(recipe, random_numbers),
        "samples": _samples(name),
        "provenance": {"settings": {}, "lineage": _lineage(name)},
    }


def _facts(name: str, recipe: dict[str, Any], random_numbers: random.Random) -> dict[str, Any]:
    sparsity = recipe.get("sparsity", 0.5)
    scale = INCREASE[name] * 4
    layers = [
        {
            "name": f"model.layers.{block}.{module}",
            "stored": f"model.layers.{block}.{module}.weight",
            "rows": rows,
            "columns": columns,
            "removed": round(rows * columns * sparsity),
            "loss": scale * (0.2 + block / BLOCKS) * random_numbers.uniform(0.6, 1.4) * rows * columns / 1e5,
        }
        for block in range(BLOCKS)
        for module, (rows, columns) in SHAPES.items()
    ]
    ledger = [
        {"layer": "model.layers.4.mlp.down_proj", "event": "damping_raised", "from": 0.01, "to": 0.1},
        {"layer": "model.layers.5.mlp.gate_proj", "event": "dead_columns", "count": 3},
    ]
    return {
        "recipe": recipe,
        "sparsity": {"prunable": sparsity, "whole_model": sparsity * 0.842},
        "layers": layers,
        "ledger": ledger if name == "sparsegpt-70" else [],
        "bits_per_weight": {"stored": 32.0, "bitmask": 32 * (1 - 0.842 * sparsity) + 0.842},
        "propagate": recipe.get("propagate", "dense"),
    }


def _losses(increase: float, random_numbers: random.Random) -> tuple[list[float], float, float]:
    """Losses of 200 windows, and the mean and standard error of their difference to the dense model's."""
    text = random.Random("windows")
    dense = [text.gauss(DENSE_LOSS, 0.42) for _ in range(200)]
    shifts = [increase * random_numbers.gauss(1, 0.4) for _ in dense]
    mean = sum(shifts) / 200
    error = math.sqrt(sum((shift - mean) ** 2 for shift in shifts) / 199 / 200)
    return [loss + shift for loss, shift in zip(dense, shifts, strict=True)], mean, error


def _rate(median: float, random_numbers: random.Random) -> dict[str, float]:
    median *= random_numbers.uniform(0.95, 1.05)
    return {"median": median, "low": median * 0.97, "high": median * 1.02}


def _datasets(calibrated: bool) -> dict[str, Any]:
    source = {"text": "stdlib", "python": "3.11.2", "files": 612}
    evaluation = {"name": "stdlib test", "digest": digest("test text"), "source": source}
    calibration = {"name": "stdlib train", "digest": digest("train text"), "source": source}
    return {"evaluation": evaluation} | ({"calibration": calibration} if calibrated else {})


def _samples(name: str) -> dict[str, Any]:
    """The dense model writes ten tokens after each of two prompts, the others leave it at the fourth and nowhere."""
    dense = name == "dense"
    text = ["return", " open(", "path)"] if dense else ["return", " ", "path, ['nothing but brackets' * 40]"]
    continuations = [
        {"tokens": list(range(10)), "shared": 10 if dense else 4, "text": ["".join(text), "", ""] if dense else text},
        {"tokens": list(range(10)), "shared": 10, "text": ["\nclass Path:", "", ""]},
    ]
    prompts = [
        {"window": 0, "tokens": [1, 2], "text": "def read(path):\n    ", "follows": "with path.open() as file:"},
        {"window": 100, "tokens": [3, 4], "text": "import os\n", "follows": "import sys"},
    ]
    facts = {"windows": [0, 100], "new_tokens": 10, "agreement": 1.0 if dense else 0.7}
    protocol = {"prompts": digest("prompts"), "new_tokens": 10, "dtype": "float32", "digest": digest("samples")}
    written = {"prompts": prompts, "continuations": continuations, "digest": digest(name, "samples")}
    return facts | written | {"protocol": protocol}


def _lineage(name: str) -> dict[str, Any]:
    """Every step behind the evaluation of a variant, as `tasks.lineage.provenance.Lineage.facts` tells it."""
    dense = [("source", "model"), ("tokens", "tokens"), ("evaluate", "evaluation")]
    pipeline_steps = [
        ("source", "baseline > model"),
        ("tokens", "baseline > tokens"),
        ("evaluate", "baseline"),
        ("tokens", "model > block-0 > tokens"),
        *(("prune_block", f"model > block-{block}") for block in range(BLOCKS)),
        ("variant", "model"),
        ("evaluate", "evaluation"),
    ]
    steps = [
        {"place": place, "kind": kind, "key": digest(name, place, "key"), "digest": digest(name, place)}
        for kind, place in (dense if name == "dense" else pipeline_steps)
    ]
    return {"steps": steps, "modules": {}, "versions": {}}


def _steps(recipe: dict[str, Any], random_numbers: random.Random) -> list[dict[str, Any]]:
    names = ["tokens", *(["prune_block"] * BLOCKS + ["assemble"] if recipe else []), "evaluate"]
    return [
        {
            "name": name,
            "label": f"{name} {number}",
            "state": "Cached" if name == "tokens" else "Completed",
            "seconds": random_numbers.uniform(0.2, 4.0),
        }
        for number, name in enumerate(names)
    ]


def _artifact(root: Path, kind: str, name: str, files: dict[str, Any]) -> dict[str, str]:
    path = root / "objects" / digest(kind, name, "key")[:16]
    path.mkdir(parents=True, exist_ok=True)
    for file, content in files.items():
        (path / file).write_text(json.dumps(content))
    return {"kind": kind, "key": digest(kind, name, "key"), "digest": digest(kind, name), "path": str(path)}
