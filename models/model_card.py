"""The model card: what training_curve.json says, for people."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

TEMPLATE = Path(__file__).with_name("model_card.template.md")
CURVE_ROWS = 16


def card(facts: dict[str, Any], target: Path) -> str:
    """The model card in Markdown for the `facts` of training_curve.json; `target` is the model's folder."""
    settings, step = facts["settings"], facts["step"]
    planned = settings["steps"]
    tokens = step * settings["rows"] * settings["context"]
    values = {
        **settings,
        **facts["versions"],
        **{key: facts[key] for key in ("parameters", "dtype", "sample", "decay_start")},
        "name": target.name,
        "path": "/".join(target.parts[-2:]),
        "step": step,
        "planned": planned,
        "interim": "" if step == planned else f" **Interim: step {step:,} of {planned:,}.**",
        "tokens": tokens,
        "epochs": tokens / facts["train_tokens"],
        "quality": quality_table(facts["heldout"]),
        "roundings": ", ".join(f"{name} {value:.4f}" for name, value in facts["rounding"].items()),
        "data": data_table(facts["splits"]),
        "curve": curve_table(facts["curve"]),
    }
    return TEMPLATE.read_text(encoding="utf-8").format(**values)


def quality_table(rows: Sequence[dict[str, Any]]) -> str:
    """Held-out perplexities as a Markdown table."""
    cells = [(row["split"], row["length"], row["windows"], f"{row['perplexity']:.3f}", _loss(row)) for row in rows]
    return table(("split", "window (tokens)", "windows", "perplexity", "mean loss (nats)"), cells)


def data_table(splits: dict[str, dict[str, Any]]) -> str:
    """Files, size and digest of every split as a Markdown table."""
    cells = [
        (name, split.get("files", split.get("documents")), f"{split['characters']:,}", f"`{split['digest']}`")
        for name, split in splits.items()
    ]
    return table(("split", "files", "characters", "sha256 of the text"), cells)


def curve_table(curve: Sequence[dict[str, float]]) -> str:
    """At most about CURVE_ROWS points of the curve, the last one included, as a Markdown table."""
    stride = max(1, round(len(curve) / CURVE_ROWS))
    points = list(curve[::-stride])[::-1]
    cells = [(f"{p['step']:,}", f"{p['train_loss']:.3f}", f"{p['validation_loss']:.3f}") for p in points]
    return table(("step", "training loss", "validation loss"), cells)


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def plot(curve: Sequence[dict[str, float]], path: Path) -> None:
    """Training and validation loss against steps, as an SVG that is the same for the same curve."""
    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.subplots()
    steps = [point["step"] for point in curve]
    for key, label in (
        ("train_loss", "training (mean since the last point)"),
        ("validation_loss", "validation"),
    ):
        axes.plot(steps, [point[key] for point in curve], label=label)
    axes.set(xlabel="step", ylabel="loss (nats per token)")
    axes.grid(alpha=0.3)
    axes.legend()
    with matplotlib.rc_context({"svg.hashsalt": "espalier", "svg.fonttype": "none"}):
        figure.savefig(path, metadata={"Date": None, "Creator": None})


def _loss(row: dict[str, Any]) -> str:
    error = row["standard_error"]
    return f"{row['mean_loss']:.4f}" + ("" if error is None else f" ± {error:.4f}")
