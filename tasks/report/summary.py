"""The comparison in plain words: a summary for readers in a hurry."""

from tasks.records.pareto import loss_increase
from tasks.records.variant import Spread, Variant

TOLERATED = 0.05
"""How much higher than the dense model's a perplexity may be for a variant to count as nearly as good."""


def summary(variants: list[Variant]) -> str:
    """One paragraph; a sentence whose figures are not known is left out.

    Args:
        variants: comparable ones, the dense model first where it is there.
    """
    dense = variants[0] if variants[0].is_baseline else None
    compressed = [variant for variant in variants if not variant.is_baseline]
    sentences = [_scope(variants[0], len(compressed))]
    if dense is not None:
        sentences += [
            _perplexity(dense),
            _smallest(dense, compressed),
            _closest(compressed),
            _fastest(dense, compressed),
        ]
    return " ".join(sentence for sentence in [*sentences, _fallbacks(compressed)] if sentence)


def _scope(first: Variant, count: int) -> str:
    amount = f"{first.metrics.windows} windows of the same text" if first.metrics.windows else "the same windows"
    amount += f" ({first.metrics.tokens:,} predicted tokens)" if first.metrics.tokens else ""
    return f"{count} compressed variant{'s' * (count != 1)} beside the dense model, judged on {amount}."


def _perplexity(dense: Variant) -> str:
    if not dense.metrics.perplexity:
        return ""
    size = f" and takes {_megabytes(dense.packed_bytes)}" if dense.packed_bytes else ""
    return (
        f"The dense model has perplexity {dense.metrics.perplexity:.4g}{size} "
        "(perplexity tells how badly a model predicts text: lower is better)."
    )


def _smallest(dense: Variant, compressed: list[Variant]) -> str:
    """Which variant is the smallest of those that are nearly as good as dense."""
    base, size = dense.metrics.perplexity, dense.packed_bytes
    measured = [variant for variant in compressed if variant.metrics.perplexity and variant.packed_bytes]
    if not base or not size or not measured:
        return ""
    near = [variant for variant in measured if variant.metrics.perplexity <= base * (1 + TOLERATED)]
    near = [variant for variant in near if variant.packed_bytes < size]
    if not near:
        best = min(measured, key=lambda variant: variant.metrics.perplexity)
        return (
            f"No smaller variant stays within {TOLERATED:.0%} of its perplexity; the best is {best.name} with "
            f"{best.metrics.perplexity:.4g} ({best.metrics.perplexity / base - 1:+.1%}) at "
            f"{_megabytes(best.packed_bytes)}, {_less(best.packed_bytes / size)}{_packing(best)}."
        )
    best = min(near, key=lambda variant: variant.packed_bytes)
    return (
        f"The smallest within {TOLERATED:.0%} of its perplexity is {best.name} with {best.metrics.perplexity:.4g} "
        f"({best.metrics.perplexity / base - 1:+.1%}) at {_megabytes(best.packed_bytes)}, "
        f"{_less(best.packed_bytes / size)}{_packing(best)}."
    )


def _less(ratio: float) -> str:
    return f"{1 - ratio:.0%} smaller" if ratio < 1 else "not smaller"


def _packing(variant: Variant) -> str:
    """That a size is not that of the file, where it is not."""
    return " once its zeros are packed" if variant.packed_bytes != variant.size_bytes else ""


def _closest(compressed: list[Variant]) -> str:
    measured = [variant for variant in compressed if variant.metrics.difference_to_dense]
    if not measured:
        return ""
    best = min(measured, key=loss_increase)
    difference, sparsity = best.metrics.difference_to_dense, best.sparsity
    error = f" ± {difference.standard_error:.4f}" if difference.standard_error else ""
    removed = f" with {sparsity.prunable:.1%} of the prunable weights removed" if sparsity else ""
    return f"Closest to the dense model is {best.name}: {difference.mean:+.4f}{error} nats per token{removed}."


def _fastest(dense: Variant, compressed: list[Variant]) -> str:
    """Whether any variant decodes faster, beyond what the quartiles leave open.

    Of those alone that are stored smaller: what a model that computes the same work gains, it gained by chance.
    """
    base, size = _decoding(dense), dense.size_bytes
    if not base or not size or not compressed:
        return ""
    smaller = [variant for variant in compressed if variant.size_bytes and variant.size_bytes < size]
    if not smaller:
        return "As stored none is smaller than the dense model, so none is expected to run faster."
    rates = [(variant, rate) for variant in smaller if (rate := _decoding(variant))]
    faster = [(variant, rate) for variant, rate in rates if (rate.low or rate.median) > (base.high or base.median)]
    if not faster:
        return "None writes text measurably faster than the dense model here."
    best, rate = max(faster, key=lambda entry: entry[1].median)
    return f"The fastest to write text is {best.name}: {rate.median / base.median:.2f} times the dense model's rate."


def _decoding(variant: Variant) -> Spread | None:
    return variant.speed and variant.speed.decode_tokens_per_second


def _fallbacks(compressed: list[Variant]) -> str:
    having = [variant for variant in compressed if variant.facts.ledger]
    if not having:
        return ""
    count = sum(len(variant.facts.ledger) for variant in having)
    names = ", ".join(variant.name for variant in having)
    return f"{count} numerical fallback{'s' * (count != 1)} happened, in {names}: see the ledger."


def _megabytes(size: float) -> str:
    return f"{size / 1e6:,.2f} MB"
