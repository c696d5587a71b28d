"""What an export is, for the terminal."""

from typing import Any

from rich.console import Console

from flows.column_blocks import Columns


def print_export(record: dict[str, Any]) -> None:
    """Dense, variant and export: quality and bytes; dense and export: speed and memory."""
    console, quality, sizes = Console(), record["quality"], record["sizes"]
    names = {"dense": "dense", "variant": record["variant"], "export": record["facts"]["format"]["name"]}
    shown = [key for key in names if key != "variant" or record["variant"] != "dense"]
    batch = min(row["batch"] for row in record["serving"]["rows"])
    speeds = {row["model"]: row for row in record["serving"]["rows"] if row["batch"] == batch}
    rows = [(quality[key], sizes.get(key), speeds.get(key)) for key in shown]
    Columns(
        {
            "": [names[key] for key in shown],
            "ppl": [_perplexity(told["perplexity"]) for told, _, _ in rows],
            "loss vs dense": [
                "-" if key == "dense" else f"{quality[key]['difference_to_dense']['mean']:+.4f}" for key in shown
            ],
            "MB": ["-" if size is None else f"{size / 1e6:.2f}" for _, size, _ in rows],
            "prefill tok/s": ["-" if speed is None else f"{speed['prefill']['median']:,.0f}" for _, _, speed in rows],
            "decode tok/s": ["-" if speed is None else f"{speed['decode']['median']:,.1f}" for _, _, speed in rows],
            "peak MB": ["-" if speed is None else f"{speed['peak_bytes'] / 1e6:,.0f}" for _, _, speed in rows],
        }
    ).print(console)
    found, zeros = record["facts"]["verified"], record["facts"]["verified"]["zeros"]
    kept = f"; {zeros['after']:,} of {zeros['before']:,} zeros are zeros still" if zeros["before"] else ""
    console.print(
        f"\n{found['equal']} of {found['tensors']} tensors come back bit for bit{kept}; "
        f"{record['facts']['bits_per_weight']:.2f} bits per stored weight",
        highlight=False,
    )
    print(f"\nexport     {record['path']}")


def _perplexity(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
