"""The log of decisions on the champion: `.espalier/decisions/<n>.json`, one per new result, each with a page."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pruning_core.checkpoint.durable_files import replace_bytes
from tasks.report.templates import fill_template
from tasks.store.canonical_json import write_json

DECISIONS = Path(".espalier") / "decisions"

Decision = dict[str, Any]


def read_decisions(workspace: Path) -> list[Decision]:
    """All decisions of the workspace, the oldest first."""
    files = [file for file in (Path(workspace) / DECISIONS).glob("*.json") if file.stem.isdecimal()]
    return [json.loads(file.read_text()) for file in sorted(files, key=lambda file: int(file.stem))]


def find_decision(workspace: Path, key: str) -> Decision | None:
    """The decision that was made on the same results by the same gates, None where there is none."""
    return next((decision for decision in read_decisions(workspace) if decision["key"] == key), None)


def write_decision(workspace: Path, decision: Mapping[str, Any]) -> Decision:
    """Give the decision its number and write it; returns it. To be called by one process at a time."""
    number = max((earlier["number"] for earlier in read_decisions(workspace)), default=0) + 1
    numbered = {"number": number, **decision}
    folder = Path(workspace) / DECISIONS
    # The page first: a decision that can be found is complete.
    replace_bytes(folder / f"{number}.html", _page(numbered).encode())
    write_json(folder / f"{number}.json", numbered)
    return numbered


def sentence(decision: Mapping[str, Any]) -> str:
    """One sentence: who is champion, and why."""
    after, before = decision["champion"]["after"], decision["champion"]["before"]
    passed = [entry["name"] for entry in decision["variants"] if entry["passed"]]
    passing = f"{len(passed)} of {len(decision['variants'])} variants pass the gates"
    if decision["moved"]:
        instead = f" instead of version {before['version']} ({before['variant']})" if before else ""
        return f"{passing}; {after['variant']}, version {after['version']}, is the champion{instead}"
    if after is None:
        return f"{passing}; there is no champion"
    return f"{passing}; the champion stays version {after['version']} ({after['variant']})"


def reasons(decision: Mapping[str, Any]) -> list[str]:
    """A line per variant and gate."""
    lines = []
    for entry in decision["variants"]:
        version = f", version {entry['version']}" if entry["version"] else ""
        lines.append(f"{entry['name']}{version}: {'passes' if entry['passed'] else 'does not pass'}")
        lines += [f"  {entry['error']}"] if entry["error"] else []
        lines += [f"  {_word(gate):6} {gate['gate']}: {gate['reason']}" for gate in entry["gates"]]
    return lines


def markdown(decision: Mapping[str, Any]) -> str:
    """The decision for people, as Prefect shows it."""
    source = decision["source"]
    lines = [
        f"# {decision['model']}: decision {decision['number']}",
        "",
        f"{sentence(decision)}.",
        "",
        f"Source `{source['model']}`, digest `{source['digest'][:12]}`"
        + (f", revision `{source['revision']}`" if source["revision"] else "")
        + f". Decided {decision['decided']}.",
        "",
        "| variant | version | perplexity | gate | | reason |",
        "|---|---|---|---|---|---|",
    ]
    for entry in decision["variants"]:
        perplexity = "" if entry["perplexity"] is None else f"{entry['perplexity']:.4f}"
        variant = f"{entry['name']} | {entry['version'] or ''} | {perplexity}"
        rows = [f"| {variant} | {gate['gate']} | {_word(gate)} | {gate['reason']} |" for gate in entry["gates"]]
        lines += rows or [f"| {variant} | | {_word(entry)} | {entry['error'] or 'no gate is set'} |"]
    return "\n".join(lines) + "\n"


def _word(verdict: Mapping[str, Any]) -> str:
    return "passed" if verdict["passed"] else "failed"


def _page(decision: Mapping[str, Any]) -> str:
    template = Path(__file__).with_name("decision.html")
    return fill_template(template, {"sentence": sentence, "word": _word}, decision=decision)
