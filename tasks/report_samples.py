"""What the models wrote after the same prompts, as the report sets it side by side."""

from typing import Any

from tasks.variant_record import Variant


def sample_rows(variants: list[Variant]) -> list[dict[str, Any]]:
    """Per prompt its text, how the evaluation text goes on, and what each model wrote; [] where nothing was written."""
    known = [variant for variant in variants if variant.samples]
    if not known:
        return []
    return [
        {
            "title": f"Prompt {place + 1}"
            + (f", from evaluation window {prompt.window}" if prompt.window is not None else ""),
            "text": prompt.text,
            "follows": prompt.follows,
            "written": [_cell(variant, place) for variant in known],
        }
        for place, prompt in enumerate(known[0].samples.prompts)
    ]


def agreements(variants: list[Variant]) -> list[tuple[str, str]]:
    """(name, share of the dense model's tokens before the first difference) of each compressed variant."""
    compressed = [variant for variant in variants if variant.samples and not variant.is_baseline]
    return [(variant.name, f"{variant.samples.agreement:.1%}") for variant in compressed]


def _cell(variant: Variant, place: int) -> dict[str, Any]:
    own = variant.samples.continuations[place]
    shared, other, rest = own.text
    alike = own.shared == len(own.tokens)
    return {
        "name": variant.name,
        "baseline": variant.is_baseline,
        "note": ""
        if variant.is_baseline
        else f"all {own.shared} tokens as dense"
        if alike
        else f"{own.shared} of {len(own.tokens)} tokens as dense",
        "shared": shared,
        "other": _visible(other),
        "rest": rest,
    }


def _visible(token: str) -> str:
    """A token that is nothing but a line break would be marked and not be seen."""
    return token.replace("\n", "⏎\n") if not token.strip() else token
