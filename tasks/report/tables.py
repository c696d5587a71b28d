"""The tables of the report on lm-eval tasks, text samples and exports, as text of their cells."""

from typing import Any

from tasks.records.model_facts import stored_value
from tasks.records.variant import LmEvalTaskResult, Variant


def lm_eval_tables(variants: list[Variant]) -> list[dict[str, Any]]:
    """A table per lm-eval task: its name, what guessing gives, and a row per variant that answered it."""
    answers = [(variant, variant.judged.tasks) for variant in variants if variant.judged]
    names = dict.fromkeys(name for _, tasks in answers for name in tasks)
    tables = []
    for name in names:
        answered = [(variant, tasks[name]) for variant, tasks in answers if name in tasks]
        chance = next((result.chance for _, result in answered if result.chance is not None), None)
        tables.append(
            {
                "name": name,
                "asked": answered[0][1].items,
                "chance": None if chance is None else f"{chance:.1%}",
                "rows": [_lm_eval_cells(variant, result) for variant, result in answered],
                "cut": max(result.truncated for _, result in answered),
            }
        )
    return tables


def _lm_eval_cells(variant: Variant, result: LmEvalTaskResult) -> dict[str, str]:
    paired = None if variant.is_baseline else result.to_dense.get("accuracy")
    cells = {
        "name": variant.name,
        "accuracy": _share(result.accuracy, result.accuracy_error),
        "accuracy_norm": _share(result.accuracy_norm, result.accuracy_norm_error),
        "difference": "",
        "exchanged": "",
        "p_value": "",
    }
    if paired is not None:
        low, high = paired.interval
        cells["difference"] = f"{100 * paired.difference:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
        cells["exchanged"] = f"{paired.lost} lost, {paired.gained} gained"
        cells["p_value"] = f"{paired.p_value:.3f}" if paired.p_value >= 0.001 else "< 0.001"
    return cells


def _share(value: float | None, error: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.1%}" + (f" ± {error:.1%}" if error is not None else "")


def sample_rows(variants: list[Variant]) -> list[dict[str, Any]]:
    """Per prompt its text, how the evaluation text goes on, and each model's continuation; [] without samples."""
    writers = [variant for variant in variants if variant.samples]
    if not writers:
        return []
    return [
        {
            "title": f"Prompt {place + 1}"
            + (f", from evaluation window {prompt.window}" if prompt.window is not None else ""),
            "text": prompt.text,
            "follows": prompt.follows,
            "written": [_cell(variant, place) for variant in writers],
        }
        for place, prompt in enumerate(writers[0].samples.prompts)
    ]


def agreements(variants: list[Variant]) -> list[tuple[str, str]]:
    """(name, share of the dense model's tokens before the first difference) of each compressed variant."""
    compressed = [variant for variant in variants if variant.samples and not variant.is_baseline]
    return [(variant.name, f"{variant.samples.agreement:.1%}") for variant in compressed]


def _cell(variant: Variant, place: int) -> dict[str, Any]:
    continuation = variant.samples.continuations[place]
    shared, other, rest = continuation.text
    alike = continuation.shared == len(continuation.tokens)
    return {
        "name": variant.name,
        "baseline": variant.is_baseline,
        "note": ""
        if variant.is_baseline
        else f"all {continuation.shared} tokens as dense"
        if alike
        else f"{continuation.shared} of {len(continuation.tokens)} tokens as dense",
        "shared": shared,
        "other": _visible(other),
        "rest": rest,
    }


def _visible(token: str) -> str:
    """A token that is nothing but a line break would be marked and not be seen."""
    return token.replace("\n", "⏎\n") if not token.strip() else token


AS_STORED = "as stored here"


def export_rows(variants: list[Variant]) -> list[dict[str, str]]:
    """Of each variant with exports a row of its own and one for each of them: name, format, size (MB), bits."""
    rows = []
    for variant in variants:
        if variant.exports:
            as_stored = (AS_STORED, variant.size_bytes, stored_value(variant.facts.bits_per_weight))
            exports = [(export.label, export.file_bytes, export.bits_per_weight) for export in variant.exports]
            rows += [_export_cells(variant.name, *one) for one in (as_stored, *exports)]
    return rows


def _export_cells(name: str, format: str, size: float | None, bits: float | None) -> dict[str, str]:
    return {
        "name": name,
        "format": format,
        "size": "" if size is None else f"{size / 1e6:,.2f}",
        "bits": "" if bits is None else f"{bits:.2f}",
    }
