"""The one walk over manifests, and the parts that it finds, on lineages that are written down here."""

import json
from pathlib import Path
from typing import Any

from tasks.lineage.gc import reachable
from tasks.lineage.gc_roots import Root
from tasks.lineage.provenance import Lineage, walk
from tasks.store.artifact import Artifact
from tasks.store.store import Store

TRAINED = {
    "evaluation": ("evaluate", {"model": "model", "tokens": "held-out", "baseline": "dense"}),
    "dense": ("evaluate", {"model": "source", "tokens": "held-out"}),
    "model": ("recovered", {"model": "pruned", "source": "source", "windows": "windows"}),
    "windows": ("recovery_windows", {"tokens": "training", "evaluation": "held-out"}),
    "pruned": ("variant", {"allocation": "search", **{f"block-{n}": f"b{n}" for n in range(12)}, "source": "source"}),
    "search": ("search", {"sensitivity-1": "fisher", "source": "source", "tokens": "searched"}),
    "fisher": ("sensitivity", {"source": "source", "tokens": "calibration"}),
    **{f"b{n}": ("prune_block", {"statistics": f"s{n}", "source": "source"}) for n in range(12)},
    **{f"s{n}": ("statistics", {"tokens": "calibration", "source": "source"}) for n in range(12)},
    **{text: ("tokens", {"source": "source"}) for text in ("held-out", "training", "searched", "calibration")},
}
"""Key -> kind, and inputs by name."""


def entry(key: str, steps: dict[str, Any]) -> dict[str, str]:
    return {"kind": steps[key][0] if key in steps else "source", "key": key, "digest": f"digest of {key}"}


def manifests(steps: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        key: {**entry(key, steps), "inputs": {name: entry(one, steps) for name, one in inputs.items()}}
        | {"modules": {f"tasks.{kind}": f"code of {kind}"}, "versions": {"torch": "2"}}
        for key, (kind, inputs) in steps.items()
    }


def lineage(root: Path, steps: dict[str, Any]) -> Lineage:
    store = Store(root)
    for key, manifest in manifests(steps).items():
        (store.objects / key).mkdir(parents=True)
        (store.objects / key / "manifest.json").write_text(json.dumps(manifest))
    return Lineage(store, Artifact("evaluate", "evaluation", "digest of evaluation", store.objects / "evaluation"))


def test_every_step_is_told_once_after_what_it_read_and_with_the_way_to_it(tmp_path: Path):
    steps = lineage(tmp_path, TRAINED).facts()["steps"]
    order = [step["key"] for step in steps]
    assert sorted(order) == sorted([*TRAINED, "source"])
    assert all(order.index(read) < order.index(key) for key, (_, inputs) in TRAINED.items() for read in inputs.values())
    places = {step["key"]: step["place"] for step in steps}
    assert places["evaluation"] == "evaluation" and places["b10"] == "model > model > block-10"
    assert places["s2"] == "model > model > block-2 > statistics" and places["held-out"] == "baseline > tokens"
    assert [key for key in order if key.startswith("b")] == [f"b{number}" for number in range(12)]


def test_the_code_of_all_steps_is_told(tmp_path: Path):
    facts = lineage(tmp_path, TRAINED).facts()
    kinds = sorted({kind for kind, _ in TRAINED.values()})
    assert facts["modules"] == {f"tasks.{kind}": f"code of {kind}" for kind in kinds}
    assert list(facts["modules"]) == sorted(facts["modules"]) and facts["versions"] == {"torch": "2"}


def test_the_parts_of_a_trained_variant_are_found_in_the_order_of_the_work(tmp_path: Path):
    found = lineage(tmp_path, TRAINED)
    making = {role: link.key for role, link in found.making.items()}
    assert list(making.items()) == [("sensitivity-1", "fisher"), ("allocation", "search"), ("compressed", "pruned")]
    assert [(name, link.key) for name, link in found.blocks.items()] == [(f"block-{n}", f"b{n}") for n in range(12)]
    assert found.artifact(found.making["allocation"]).path == tmp_path / "objects" / "search"


def test_a_smaller_model_was_made_from_scores_and_the_dense_one_from_nothing(tmp_path: Path):
    narrow = {"evaluation": ("evaluate", {"model": "model"}), "model": ("structured_prune", {"scores": "scores"})}
    narrow["scores"] = ("structured_importance", {"source": "source"})
    found = lineage(tmp_path / "narrow", narrow)
    assert {role: link.key for role, link in found.making.items()} == {"importance": "scores"} and found.blocks == {}
    dense = lineage(tmp_path / "dense", {"evaluation": ("evaluate", {"model": "source"})})
    assert dense.making == {} and dense.blocks == {} and dense.model.kind == "source"


def test_a_chain_of_any_length_is_walked():
    chain = {str(number): ("prune_block", {"previous": str(number + 1)}) for number in range(3000)}
    chain["3000"] = ("prune_block", {})
    known = manifests(chain)
    found = list(walk(known["0"], lambda one: known[one["key"]], set()))
    assert [link.key for link in found] == [str(number) for number in range(3000, -1, -1)]


def test_garbage_is_found_by_the_same_walk_with_the_first_reason():
    known = manifests(TRAINED)
    roots = [Root("first", ("pruned",)), Root("second", ("evaluation", "unknown"))]
    reasons = reachable(known, roots, ())
    behind = {"pruned", "search", "fisher", "searched", "calibration"}
    behind |= {f"{kind}{number}" for kind in "bs" for number in range(12)}
    assert {key for key, why in reasons.items() if why == "first"} == behind
    assert reasons.keys() == known.keys() and set(reasons.values()) == {"first", "second"}
    without = reachable(known, roots, ("statistics",))
    assert without.keys() == known.keys() - {f"s{number}" for number in range(12)}
