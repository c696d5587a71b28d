"""What the figures of the results page say, in words: computed from them, so that words and figures cannot part."""

from collections.abc import Iterator

from benchmarks.quality.entries import DRAWN_AT, DRAWS, PATTERNS, SPARSITIES, SWEPT, percent
from benchmarks.quality.figures import Figures, Results, certain
from pruning_core.evaluation.paired import PairedDifference

SHOWN = tuple(percent(sparsity) for sparsity in SPARSITIES)
CHOICES = (
    *(
        (f"updating the survivors: Wanda's score in the sweep, not Wanda, {s} %", f"wanda-squared-{s}", f"wanda-{s}")
        for s in SHOWN
    ),
    ("2:4 instead of 50 % unstructured, SparseGPT", "sparsegpt-2of4", "sparsegpt-50"),
    ("4:8 instead of 50 % unstructured, SparseGPT", "sparsegpt-4of8", "sparsegpt-50"),
    ("GPTQ instead of rounding, 4 bits", "gptq-int4", "rtn-int4"),
    ("GPTQ instead of rounding, 4 bits in groups of 128", "gptq-int4-g128", "rtn-int4-g128"),
    ("GPTQ instead of rounding, 3 bits", "gptq-int3", "rtn-int3"),
    ("groups of 128 instead of whole rows, GPTQ, 4 bits", "gptq-int4-g128", "gptq-int4"),
    ("act-order and true-sequential, GPTQ, 4 bits", "gptq-int4-actorder", "gptq-int4"),
    ("4 bits on top of 50 %, one joint pass", "sparsegpt-50-int4", "sparsegpt-50"),
    ("one joint pass instead of SparseGPT, then GPTQ on its zeros", "sparsegpt-50-int4", "gptq-int4-on-zeros"),
    ("GPTQ on the zeros instead of rounding, after SparseGPT", "gptq-int4-on-zeros", "rtn-int4-on-zeros"),
    *(
        (f"calibrating {what}, {title}, {s} %", f"{method}-{s}-{propagate}", f"{method}-{s}")
        for propagate, what in (
            ("compressed", "behind compressed layers instead of compressed blocks"),
            ("dense", "on the dense model instead of behind compressed blocks"),
        )
        for method, title in (("sparsegpt", "SparseGPT"), ("wanda", "Wanda"))
        for s in (percent(sparsity) for sparsity in DRAWN_AT)
    ),
)
"""(a choice, the entry that made it, the one that did not)."""


def signed(difference: PairedDifference) -> str:
    """+0.1029 ± 0.0035."""
    error = difference.standard_error
    return f"{difference.mean:+.4f}" + (f" ± {error:.4f}" if error is not None else "")


def verdict(difference: PairedDifference) -> str:
    """Better, worse, or not to be told apart."""
    if not certain(difference):
        return "no certain difference"
    return "better" if difference.mean < 0 else "worse"


def choices(results: Results) -> list[tuple[str, str, str]]:
    """(choice, change of the loss, verdict) for every choice whose two entries are there."""
    rows = []
    for what, taken, left in CHOICES:
        if {taken, left} <= results.figures.keys():
            change = results.figures[taken].above(results.figures[left])
            rows.append((what, signed(change), verdict(change)))
    return rows


def reading(results: Results) -> list[str]:
    """Sentences in Markdown."""
    return [*_rankings(results), *_scores(results), *_draws(results), _ledger(results)]


def _rankings(results: Results) -> Iterator[str]:
    pruning = (*(f"unstructured-{shown}" for shown in SHOWN), *PATTERNS)
    for group in results.groups:
        if group.name in pruning:
            best = results.best(group)
            others = [figures for figures in results.of(group) if figures.entry.name != best.entry.name]
            others.sort(key=lambda figures: float(figures.losses.mean()))
            apart = {figures.entry.name: figures.above(best) for figures in others}
            near = [figures for figures in others if not certain(apart[figures.entry.name])]
            far = [figures for figures in others if certain(apart[figures.entry.name])]
            text = f"**{group.title}**: the lowest loss is that of {best.entry.title}"
            if near:
                text += ", not to be told apart from " + _listed(near, apart)
            yield text + (f"; above it {_listed(far, apart)}." if far else ".")


def _listed(variants: list[Figures], apart: dict[str, PairedDifference]) -> str:
    return ", ".join(f"{one.entry.title} ({signed(apart[one.entry.name])})" for one in variants)


def _scores(results: Results) -> Iterator[str]:
    for method, other, lead in (
        ("isc-code", "wanda-squared", "ISC, as coded, against the baseline it has to beat, Wanda² in the same sweep"),
        ("isc-paper", "wanda-squared", "ISC, as in the paper, against the same baseline"),
        ("wanda-squared", "sparsegpt", "That baseline against SparseGPT's own score"),
    ):
        changes = [
            (shown, results.figures[f"{method}-{shown}"].above(results.figures[f"{other}-{shown}"]))
            for shown in SHOWN
            if {f"{method}-{shown}", f"{other}-{shown}"} <= results.figures.keys()
        ]
        if changes:
            parts = ", ".join(f"{signed(change)} at {shown} % ({verdict(change)})" for shown, change in changes)
            yield f"**{lead}**, all at equal sparsity: {parts}."


def _draws(results: Results) -> Iterator[str]:
    for sparsity in DRAWN_AT:
        shown, parts = percent(sparsity), []
        for method in SWEPT[1:]:
            names = [(f"{method}-{shown}-draw{seed}", f"{SWEPT[0]}-{shown}-draw{seed}") for seed in DRAWS]
            if all({*pair} <= results.figures.keys() for pair in names):
                changes = [results.figures[left].above(results.figures[right]) for left, right in names]
                means, sure = [change.mean for change in changes], sum(map(certain, changes))
                title = results.figures[names[0][0]].entry.title
                parts.append(f"{title} {min(means):+.4f} to {max(means):+.4f} (certain in {sure} of {len(DRAWS)})")
        if parts:
            yield (
                f"**Calibration windows drawn {len(DRAWS)} times, {shown} %**, difference to SparseGPT's score: "
                f"{', '.join(parts)}."
            )


def _ledger(results: Results) -> str:
    noted: dict[str, int] = {}
    for figures in results.figures.values():
        for event in figures.events:
            noted[event] = noted.get(event, 0) + 1
    if not noted:
        return "**Ledger**: no dead column, no retry and no fallback in any variant."
    counts = ", ".join(f"`{event}` in {count} of {len(results.figures)} variants" for event, count in noted.items())
    return f"**Ledger**: {counts}."
