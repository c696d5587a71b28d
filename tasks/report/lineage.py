"""The lineage and the ledger of each variant, as the report shows them."""

from collections import Counter
from typing import Any

from tasks.records.variant import Variant
from tasks.store.canonical_json import digest_of

SHORT = 12
"""Digits of a digest that people compare."""
ORDER = {
    "source": "source",
    "tokens": "calibration tokens",
    "structured_importance": "importance",
    "statistics": "statistics",
    "sensitivity": "sensitivity",
    "levels": "levels",
    "search": "search",
    "allocation": "allocation",
    "prune_block": "blocks",
    "structured_prune": "variant",
    "variant": "variant",
    "recovery_windows": "training tokens",
    "recovered": "recovered variant",
    "evaluation tokens": "evaluation tokens",
    "dense evaluation": "dense evaluation",
    "evaluate": "evaluation",
}
"""What made a link -> its title, in the order of the work; what is not named here is called as its kind and comes
before the variant."""


def chain(variant: Variant) -> list[dict[str, str]]:
    """The links from the source to the evaluation, in the order of the work: {title, count, digest}.

    Steps of one kind, such as those of each block, are one link, whose digest is that of all their digests.
    """
    links: dict[str, list[str]] = {}
    for step in variant.provenance.get("lineage", {}).get("steps", []):
        links.setdefault(_link(step), []).append(step["digest"])
    places = list(ORDER)
    titled = [
        {
            "title": ORDER.get(kind, kind.replace("_", " ")),
            "count": f"× {len(digests)}" if len(digests) > 1 else "",
            "digest": (digests[0] if len(digests) == 1 else digest_of(digests))[:SHORT],
        }
        for kind, digests in sorted(links.items(), key=lambda link: places.index(_listed_kind(link[0])))
    ]
    if variant.samples:
        titled.append({"title": "samples", "count": "", "digest": variant.samples.digest[:SHORT]})
    return titled


def _link(step: dict[str, str]) -> str:
    """The link that a step belongs to; the dense model's evaluation and its windows have links of their own."""
    kind, place = step["kind"], step["place"].split(" > ")
    if kind == "tokens" and place in (["tokens"], ["baseline", "tokens"]):
        return "evaluation tokens"
    return "dense evaluation" if kind == "evaluate" and place == ["baseline"] else kind


def _listed_kind(kind: str) -> str:
    return kind if kind in ORDER else "allocation"


def ledgers(variants: list[Variant]) -> dict[str, Any] | None:
    """How often each event happened in each variant: {events, rows [(name, counts)]}; None where none happened."""
    counts = {
        variant.name: Counter(str(entry.get("event", "")) for entry in variant.facts.ledger) for variant in variants
    }
    events = sorted({event for counted in counts.values() for event in counted})
    if not events:
        return None
    rows = [(name, [counted[event] for event in events]) for name, counted in counts.items() if counted]
    return {"events": events, "rows": rows}
