"""The model card of an export: what it is, how to load it, what it costs, and where it comes from."""

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from pruning_core.export import FORMATS
from pruning_core.settings.recipe import BASELINE

MEGABYTE = 1e6
SHOWN_FALLBACKS = 20
EVALUATING = ("llama.cpp", "ONNX Runtime")
"""Engines that evaluate exports of their own format."""


def card(record: Mapping[str, Any]) -> str:
    """Markdown with the front matter that model hubs read.

    Args:
        record: as `tasks.pipeline.export.export_record` makes it.
    """
    file_format = FORMATS.build(record["facts"]["format"], "format")
    front = {
        "library_name": file_format.library,
        "tags": ["espalier", "compressed", file_format.name],
        "pipeline_tag": "text-generation",
    }
    parts = [
        [
            "---",
            yaml.safe_dump(front, sort_keys=False).rstrip(),
            "---",
            "",
            f"# {record['variant']} as {file_format.name}",
        ],
        [
            "## Load",
            "",
            "```sh" if file_format.shell else "```python",
            file_format.command().replace("{path}", "path/of/this/directory"),
            "```",
        ],
        ["## Quality", "", *_quality(record)],
        ["## Size", "", *_sizes(record)],
        ["## Speed", "", *_speed(record)],
        ["## What was checked", "", _verification(record)],
        *([["## Recipe", "", *_recipe(record)]] if record["variant"] != BASELINE else []),
        ["## Where it comes from", "", *_lineage(record)],
    ]
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def _table(head: list[str], rows: list[list[str]]) -> Iterator[str]:
    yield "| " + " | ".join(head) + " |"
    yield "|---|" + "---:|" * (len(head) - 1)
    yield from ("| " + " | ".join(row) + " |" for row in rows)


def _quality(record: Mapping[str, Any]) -> Iterator[str]:
    quality = record["quality"]
    rows = [["dense", _number(quality["dense"]["perplexity"]), "", ""]]
    names = {"variant": record["variant"], "export": "this export"}
    names |= {engine: f"this export, run by {engine}" for engine in EVALUATING}
    for key, name in names.items():
        if key not in quality or (key == "variant" and record["variant"] == BASELINE):
            continue
        metrics = quality[key]
        difference = metrics["difference_to_dense"]
        loss = f"{difference['mean']:+.4f} ± {difference['standard_error']:.4f}"
        rows.append([name, _number(metrics["perplexity"]), loss, _kl(metrics)])
    yield from _table(["", "perplexity", "loss against dense, nats per token", "KL to dense"], rows)
    protocol = quality["export"]["protocol"]
    shown = {key: value for key, value in protocol.items() if key not in ("text", "tokens", "digest")}
    yield ""
    yield f"Protocol `{protocol['digest'][:12]}`: {', '.join(f'{key} {value}' for key, value in shown.items())}."


def _sizes(record: Mapping[str, Any]) -> Iterator[str]:
    facts, sizes = record["facts"], record["sizes"]
    bits = 8 * sizes["dense"] / _dense_parameters(record)
    rows = [
        ["dense", f"{sizes['dense'] / MEGABYTE:.2f}", f"{bits:.2f}", "100.0 %"],
        [
            "this export",
            f"{facts['file_bytes'] / MEGABYTE:.2f}",
            f"{8 * facts['file_bytes'] / _dense_parameters(record):.2f}",
            f"{facts['file_bytes'] / sizes['dense']:.1%}".replace("%", " %"),
        ],
    ]
    yield from _table(["", "weights files, MB", "bits per weight of the dense model", "of dense"], rows)
    yield ""
    yield "Bytes of the files themselves: values, masks, indices, scales, padding, headers and what is not compressed."


def _dense_parameters(record: Mapping[str, Any]) -> int:
    return record["model_facts"].get("parameters", {}).get("all") or record["facts"]["parameters"]


def _speed(record: Mapping[str, Any]) -> Iterator[str]:
    serving = record["serving"]
    rows = [
        [
            "dense" if row["model"] == "dense" else "this export",
            row["engine"],
            str(row["batch"]),
            _spread(row["prefill"], 0),
            _spread(row["decode"], 1),
            f"{1000 * row['first_token']['median']:.0f}",
            f"{row['peak_bytes'] / MEGABYTE:.0f}",
        ]
        for row in serving["rows"]
    ]
    head = ["", "run by", "batch", "prefill, tokens/s", "decode, tokens/s", "first token, ms", "peak memory, MB"]
    yield from _table(head, rows)
    load, machine = serving["load"], serving["machine"]
    yield ""
    yield (
        f"Medians with quartiles of {load['rounds'] * load['repeats']} runs each, dense and export taking turns, "
        f"{load['prompt']} tokens of prompt and {load['generated']} generated; {machine['processor']}, "
        f"{machine['cores']} cores. transformers computes in float32. Peak memory is the whole process's, Python's "
        "libraries and mapped weights included."
    )


def _verification(record: Mapping[str, Any]) -> str:
    check = record["facts"]["verified"]
    same = (
        "Every tensor was read again from these files and is the variant's bit for bit"
        if check["equal"] == check["tensors"]
        else f"Every tensor was read again from these files: {check['equal']} of {check['tensors']} are the variant's "
        f"bit for bit, the others change the weights by {check['relative_change']:.2e} of their norm"
    )
    zeros = check["zeros"]
    if not zeros["before"]:
        return f"{same}."
    return f"{same}. Of {zeros['before']:,} zeros of the pruned matrices {zeros['after']:,} are zeros still."


def _recipe(record: Mapping[str, Any]) -> Iterator[str]:
    yield "```yaml"
    yield yaml.safe_dump(record["recipe"], sort_keys=False).rstrip()
    yield "```"
    ledger = record["model_facts"].get("ledger", [])
    yield ""
    if not ledger:
        yield "No fallbacks."
        return
    yield f"{len(ledger)} fallbacks:"
    yield ""
    yield from (f"- {entry.get('layer', '')}: {entry.get('event', '')}" for entry in ledger[:SHOWN_FALLBACKS])
    if len(ledger) > SHOWN_FALLBACKS:
        yield f"- and {len(ledger) - SHOWN_FALLBACKS} more"


def _lineage(record: Mapping[str, Any]) -> Iterator[str]:
    rows = [[link["what"], f"`{link['digest']}`"] for link in record["lineage"]["chain"]]
    rows.append(["export", f"`{record['export']['digest']}`"])
    yield from _table(["", "SHA-256"], rows)
    yield ""
    versions = ", ".join(f"{name} {version}" for name, version in record["lineage"]["versions"].items())
    commit = record["lineage"]["git_commit"]
    yield f"{f'Commit `{commit}`; ' if commit else ''}{versions}. `export.json` has the same for machines."


def _kl(metrics: Mapping[str, Any]) -> str:
    return f"{metrics['kl_to_dense']:.4f}" if "kl_to_dense" in metrics else ""


def _number(perplexity: float | None) -> str:
    return "beyond every float" if perplexity is None else f"{perplexity:.4g}"


def _spread(rate: Mapping[str, float], digits: int) -> str:
    low, high = rate["lower_quartile"], rate["upper_quartile"]
    return f"{rate['median']:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"
