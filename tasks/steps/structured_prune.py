"""Step: remove channels and heads of a model, and write the smaller model."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pruning_core.checkpoint.checkpoint import Checkpoint
from pruning_core.checkpoint.layer_facts import LayerFacts
from pruning_core.model.coupled_groups import Site, sites_of
from pruning_core.model.decoder import Decoder, matrix
from pruning_core.settings.structured import build_ranking, build_reconstruction
from pruning_core.structured.kept_groups import KeptGroups, plan_table
from pruning_core.structured.surgery import Replacements, kept_slices, stored_parameters, write_pruned
from tasks.engine.step import Context, step
from tasks.progress import progress
from tasks.steps.hidden_states import exclusive, load_tokens
from tasks.steps.running import OnDevice
from tasks.steps.source_model import companion_files
from tasks.steps.structured_importance import GROUPS_TABLE, load_decoder, load_scores
from tasks.store.artifact import Artifact
from tasks.store.canonical_json import write_json

PLAN, PLAN_TABLE = "plan.json", "plan.txt"
TABLES = (GROUPS_TABLE, PLAN_TABLE)


@dataclass(frozen=True, kw_only=True)
class StructuredPruneParams(OnDevice):
    """What goes and how the rest is refitted.

    Args:
        recipe: for people.
        ranking: keys of a structured recipe.
        reconstruction: as in one; None where nothing is refitted.
        batch: windows per forward.
    """

    recipe: dict[str, Any]
    ranking: dict[str, Any]
    reconstruction: dict[str, Any] | None
    batch: int


@step("structured_prune")
def structured_prune(
    params: StructuredPruneParams, inputs: dict[str, Artifact], out: Path, context: Context
) -> dict[str, Any]:
    """Rank, refit what reads the survivors, slice, and write.

    inputs: source, scores; tokens where there is a reconstruction.
    writes: a Hugging Face directory; plan.json (`pruning_core.structured.kept_groups.KeptGroups`); plan.txt (a
        table for people).
    """
    ranking = build_ranking(params.ranking)
    decoder = load_decoder(inputs["source"], params, whole=False)
    sites = sites_of(decoder.blocks, decoder.block_prefix, inputs["scores"].facts["families"])
    plan = ranking.plan(sites, load_scores(inputs["scores"]), *stored_parameters(decoder))
    replacements, refits = None, []
    if params.reconstruction is not None:
        reconstruction = build_reconstruction(params.reconstruction)
        windows = load_tokens(inputs["tokens"])
        with exclusive:
            replacements, refits = reconstruction.run(
                decoder, sites, plan, windows, params.batch, progress("least squares")
            )
    for file in companion_files(inputs["source"].path):
        shutil.copyfile(file, out / file.name)
    written = write_pruned(decoder, sites, plan, out, replacements or Replacements(), progress("surgery"))
    write_json(out / PLAN, plan.facts())
    (out / PLAN_TABLE).write_text(plan_table(plan, sites) + "\n", encoding="utf-8")
    return _facts(decoder, sites, plan, written, refits, params, out)


def _facts(
    decoder: Decoder,
    sites: list[Site],
    plan: KeptGroups,
    written: dict[str, Any],
    refits: list[dict[str, Any]],
    params: StructuredPruneParams,
    out: Path,
) -> dict[str, Any]:
    """Those of `tasks.steps.assemble`; a weight goes with its row or column, bits are per weight of the source."""
    layers = [layer for index in range(len(decoder)) for layer in _layers(decoder, index, sites, plan)]
    prunable = sum(layer.size for layer in layers)
    removed = sum(layer.removed for layer in layers)
    checkpoint = Checkpoint(out)
    stored = sum(checkpoint.bytes(name) for name in checkpoint.names())
    width = 8 * stored / plan.before
    return {
        "recipe": params.recipe,
        "sparsity": {"prunable": removed / prunable, "whole_model": 1 - written["parameters"] / plan.before},
        "parameters": {
            "prunable": prunable,
            "all": plan.before,
            "removed": removed,
            "stored": written["parameters"],
            "zeros": written["zeros"],
        },
        "layers": [layer.facts() for layer in layers],
        "ledger": _raised_ridges(refits, params.reconstruction),
        "reconstruction": refits,
        "bits_per_weight": {"stored": width, "bitmask": width},
        "size_bytes": {"stored": stored, "bitmask": stored},
        "structure": {"mode": plan.mode, "kept": {name: len(groups) for name, groups in plan.kept.items()}},
    }


def _raised_ridges(refits: list[dict[str, Any]], reconstruction: dict[str, Any] | None) -> list[dict[str, Any]]:
    """A ledger entry for every consumer that could be solved for with a larger ridge than any that was asked for."""
    if reconstruction is None:
        return []
    ridges = build_reconstruction(reconstruction).ridges
    raised = [refit for refit in refits if refit["event"] == "least_squares" and refit["ridge"] > max(ridges)]
    return [{"layer": refit["layer"], "event": "ridge_raised", "ridge": refit["ridge"]} for refit in raised]


def _layers(decoder: Decoder, index: int, sites: list[Site], plan: KeptGroups) -> list[LayerFacts]:
    cuts = {name: cut for site in sites if site.block == index for name, cut in kept_slices(site, plan).items()}
    layers = []
    for name, module in decoder.linears(index).items():
        dense = torch.Size(matrix(module).shape)
        stays = list(module.weight.shape)
        if f"{name}.weight" in cuts:
            axis, kept = cuts[f"{name}.weight"]
            stays[axis] = len(kept)
        rows, columns = stays if matrix(module) is module.weight else reversed(stays)
        layers.append(
            LayerFacts(
                name=name,
                stored=decoder.stored_name(f"{name}.weight"),
                rows=rows,
                columns=columns,
                removed=dense.numel() - rows * columns,
                zeros=0,
                dense_rows=dense[0],
                dense_columns=dense[1],
            )
        )
    return layers
