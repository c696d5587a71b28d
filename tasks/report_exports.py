"""What the exports of the variants take, as the rows of the report's table."""

from tasks.model_facts import stored
from tasks.variant_record import Variant

AS_STORED = "as stored here"


def export_rows(variants: list[Variant]) -> list[dict[str, str]]:
    """Of each variant with exports a row of its own and one for each of them: name, format, size (MB), bits."""
    rows = []
    for variant in variants:
        if variant.exports:
            own = (AS_STORED, variant.size_bytes, stored(variant.facts.bits_per_weight))
            made = [(export.label, export.file_bytes, export.bits_per_weight) for export in variant.exports]
            rows += [_cells(variant.name, *one) for one in (own, *made)]
    return rows


def _cells(name: str, format: str, size: float | None, bits: float | None) -> dict[str, str]:
    return {
        "name": name,
        "format": format,
        "size": "" if size is None else f"{size / 1e6:,.2f}",
        "bits": "" if bits is None else f"{bits:.2f}",
    }
