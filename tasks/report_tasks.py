"""What the variants answered to tasks, as the cells of the report's tables."""

from typing import Any

from tasks.variant_record import Answered, Variant


def task_tables(variants: list[Variant]) -> list[dict[str, Any]]:
    """A table per task: its name, what guessing gives, and a row per variant that answered it."""
    judged = [(variant, variant.judged.tasks) for variant in variants if variant.judged]
    names = dict.fromkeys(name for _, tasks in judged for name in tasks)
    tables = []
    for name in names:
        answered = [(variant, tasks[name]) for variant, tasks in judged if name in tasks]
        chance = next((told.chance for _, told in answered if told.chance is not None), None)
        tables.append(
            {
                "name": name,
                "asked": answered[0][1].items,
                "chance": None if chance is None else f"{chance:.1%}",
                "rows": [_cells(variant, told) for variant, told in answered],
                "cut": max(told.truncated for _, told in answered),
            }
        )
    return tables


def _cells(variant: Variant, told: Answered) -> dict[str, str]:
    paired = None if variant.is_baseline else told.to_dense.get("accuracy")
    cells = {
        "name": variant.name,
        "accuracy": _share(told.accuracy, told.accuracy_error),
        "accuracy_norm": _share(told.accuracy_norm, told.accuracy_norm_error),
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
