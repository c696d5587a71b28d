"""The record of an export as a flow makes it, invented but plausible."""

from pathlib import Path
from typing import Any

from records import digest, make_record

VARIANT = "sparsegpt-70"


def make_export_record(root: Path, variant: dict[str, Any] | None = None) -> dict[str, Any]:
    """The record of a sparse export of a variant.

    Args:
        variant: its record by `make_record`; made where it is not given.
    """
    variant = variant or make_record(root, VARIANT)
    model, metrics = variant["model"], variant["metrics"]
    dense = {"perplexity": 8.176, "protocol": metrics["protocol"]}
    return {
        "variant": variant["name"],
        "recipe": variant["recipe"],
        "export": {"kind": "export", "key": digest("export", "key"), "digest": digest("export"), "path": "export"},
        "facts": {
            "format": {"name": "sparse", "encoding": "bitmask"},
            "file_bytes": 4_500_000,
            "parameters": 3_000_000,
            "bits_per_weight": 12.0,
            "verified": {
                "tensors": 57,
                "equal": 57,
                "relative_change": 0.0,
                "largest_change": 0.0,
                "zeros": {"before": 1_234_567, "after": 1_234_567},
            },
        },
        "model": model,
        "model_facts": {
            "parameters": {"all": 3_000_000},
            "ledger": variant["manifest"]["facts"].get("ledger", []),
        },
        "quality": {"export": metrics, "variant": metrics, "dense": dense},
        "evaluation": {"kind": "evaluation", "key": digest("e", "key"), "digest": digest("e"), "path": "evaluation"},
        "speed": {"kind": "serve_speed", "key": digest("v", "key"), "digest": digest("v"), "path": "speed"},
        "serving": {
            "rows": [_row("dense", 1, 2000.0, 50.0), _row("export", 1, 1500.0, 40.5)],
            "machine": {"processor": "Some Processor 9000", "cores": 4, "system": "Linux"},
            "load": {"batches": [1], "prompt": 128, "generated": 32, "repeats": 3, "warmup": 1, "rounds": 2},
        },
        "sizes": {"dense": 12_000_000, "export": 4_500_000},
        "lineage": {
            "chain": [
                {"what": "source checkpoint", "digest": digest("dense model"), "path": "models/dense"},
                {"what": "variant", "digest": model["digest"], "path": model["path"]},
            ],
            "code": digest("code"),
            "versions": {"espalier": "0.1.0", "torch": "2.13.0"},
            "git_commit": "3f9d2c1ab84e0d7766f1c5b09e1a2d3c4b5a6978",
        },
    }


def _row(model: str, batch: int, prefill: float, decode: float) -> dict[str, Any]:
    def spread(median: float) -> dict[str, float]:
        return {"median": median, "lower_quartile": 0.9 * median, "upper_quartile": 1.1 * median}

    return {
        "model": model,
        "engine": "transformers",
        "batch": batch,
        "prefill": spread(prefill),
        "decode": spread(decode),
        "first_token": spread(batch * 128 / prefill),
        "peak_bytes": 321_000_000,
    }
