"""Sizes and labels of exports; nothing is computed."""

from collections.abc import Mapping
from typing import Any

from tasks.records.variant import ExportSize

EXPORT = "export"


def export_size(export: Mapping[str, Any], model: Mapping[str, Any]) -> ExportSize:
    """The size of an export; bits are per weight of the dense model, as those of variants are.

    Args:
        export: its facts.
        model: the facts of the variant; {} for the dense model.
    """
    weights = model.get("parameters", {}).get("all", export["parameters"])
    size = export["file_bytes"]
    return ExportSize(label=export_label(export["format"]), file_bytes=size, bits_per_weight=8 * size / weights)


def export_label(format: Mapping[str, Any]) -> str:
    """For people: the format and its options, in one order however they were given."""
    options = sorted((key, value) for key, value in format.items() if key != "name")
    return " ".join([format["name"], *(f"{key}={value}" for key, value in options)])
