"""The comparison table: which variants may be compared, and their rows."""

from collections.abc import Iterable
from typing import Any

from pruning_core.errors import InputError
from tasks.records.model_facts import Samples
from tasks.records.variant import LmEvalResults, Spread, Variant


def comparable(variants: Iterable[Variant]) -> list[Variant]:
    """The variants with the dense baseline first, the others in the order given.

    Raises:
        InputError: no variant, a name given twice, or evaluations that do not compare.
    """
    variants = sorted(variants, key=lambda variant: not variant.is_baseline)
    if not variants:
        raise InputError("there is no variant to compare; run `espalier compress VARIANT` first")
    names = [variant.name for variant in variants]
    if twice := {name for name in names if names.count(name) > 1}:
        raise InputError(f"the variant {sorted(twice)[0]!r} was given twice; compare each variant once")
    for other in variants[1:]:
        _require_same_protocol(variants[0], other)
    return variants


def comparison_table(variants: Iterable[Variant]) -> list[dict[str, Any]]:
    """One flat row per variant, the dense baseline first; what is not known is None.

    Units: losses and KL in nats per token, sizes in bytes, rates in tokens per second; sparsity is the
    removed fraction of the prunable matrices. `bits_per_weight` and `packed_bytes` pack the zeros behind a bitmask.

    Raises:
        InputError: as `comparable`.
    """
    return [row(variant) for variant in comparable(variants)]


def row(variant: Variant) -> dict[str, Any]:
    """The variant's row of the comparison table."""
    metrics, difference, sparsity = variant.metrics, variant.metrics.difference_to_dense, variant.sparsity
    speed = variant.speed
    return {
        "name": variant.name,
        "baseline": variant.is_baseline,
        "perplexity": metrics.perplexity,
        "loss_increase": difference and difference.mean,
        "loss_increase_error": difference and difference.standard_error,
        "kl_to_dense": metrics.kl_to_dense,
        "top1_agreement": metrics.top1_agreement,
        "sparsity": sparsity and sparsity.prunable,
        "sparsity_whole_model": sparsity and sparsity.whole_model,
        "size_bytes": variant.size_bytes,
        "packed_bytes": variant.packed_bytes,
        "bits_per_weight": variant.bits_per_weight,
        "prefill_tokens_per_second": _median(speed and speed.prefill_tokens_per_second),
        "decode_tokens_per_second": _median(speed and speed.decode_tokens_per_second),
        "accuracy": variant.judged and variant.judged.mean_accuracy,
        "fallbacks": len(variant.facts.ledger),
    }


def _median(rate: Spread | None) -> float | None:
    return rate.median if rate else None


def _require_same_protocol(first: Variant, other: Variant) -> None:
    if not _are_comparable(first.judged, other.judged):
        raise InputError(
            f"{first.name} and {other.name} answered different tasks, so one table cannot hold both; evaluate them "
            "with the same evaluation.tasks of params.yaml"
        )
    if not _are_comparable(first.samples, other.samples):
        raise InputError(
            f"{first.name} and {other.name} went on with different prompts, so they cannot stand side by side; "
            "evaluate them with the same evaluation.samples of params.yaml"
        )
    if other.protocol_digest == first.protocol_digest:
        return
    mine, theirs = first.metrics.protocol, other.metrics.protocol
    names = [name for name in {**mine, **theirs} if name != "digest" and mine.get(name) != theirs.get(name)]
    different = ", ".join(f"{name} {mine.get(name)} and {theirs.get(name)}" for name in names)
    raise InputError(
        f"{first.name} and {other.name} were evaluated differently ({different or 'protocol digest'}), "
        "so one table cannot hold both; evaluate them with the same `evaluation` section of params.yaml"
    )


def _are_comparable(first: LmEvalResults | Samples | None, other: LmEvalResults | Samples | None) -> bool:
    """Whether both are of one protocol, or one is not there."""
    return first is None or other is None or first.protocol.get("digest") == other.protocol.get("digest")
