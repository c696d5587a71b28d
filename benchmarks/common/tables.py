"""Markdown tables of measured figures."""

from benchmarks.common.summary import Spread


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table, all columns but the first aligned to the right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def spread(value: Spread | None, digits: int, unit: str = "") -> str:
    """The median with the extremes of the rounds; a dash where nothing was measured."""
    if value is None:
        return "-"
    if value.low == value.high:
        return f"{value.median:.{digits}f}{unit}"
    return f"{value.median:.{digits}f}{unit} ({value.low:.{digits}f} to {value.high:.{digits}f})"
