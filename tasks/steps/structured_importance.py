"""Step: score a model's channels and heads; structured pruning at any ratio shares the scores."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from pruning_core.checkpoint.model_files import read_config
from pruning_core.model.coupled_groups import sites_of
from pruning_core.model.decoder import Decoder
from pruning_core.model.whole_model import load_whole
from pruning_core.structured.coupling import check_coupling
from pruning_core.structured.importance import IMPORTANCES
from pruning_core.structured.kept_groups import groups_table
from pruning_core.structured.scores import Scores
from pruning_core.structured.scoring_inputs import ScoringInputs
from tasks.engine.step import Context, step
from tasks.progress import progress
from tasks.steps.hidden_states import exclusive, load_tokens
from tasks.steps.running import OnDevice
from tasks.store.artifact import Artifact
from tasks.store.canonical_json import write_json

GROUPS_TABLE = "groups.txt"


@dataclass(frozen=True, kw_only=True)
class ImportanceParams(OnDevice):
    """Which scores of which groups.

    Args:
        importance: as in a recipe.
        families: of groups.
        batch: windows per forward.
    """

    importance: dict[str, Any]
    families: list[str]
    batch: int


def importance_module(params: ImportanceParams) -> list[str]:
    """The module of the importance that these params choose."""
    return [IMPORTANCES.module(params.importance["name"])]


@step("structured_importance", modules=importance_module)
def structured_importance(
    params: ImportanceParams, inputs: dict[str, Artifact], out: Path, context: Context
) -> dict[str, Any]:
    """Scores of every group of the chosen families, once the groups are known to be coupled as their names say.

    inputs: source; tokens where the importance needs them.
    writes: scores.safetensors {site: [groups] float64}, notes.json, groups.txt (a table for people).
    """
    importance = IMPORTANCES.build(params.importance)
    decoder = load_decoder(inputs["source"], params, whole="whole" in importance.needs)
    sites = tuple(sites_of(decoder.blocks, decoder.block_prefix, params.families))
    check_coupling(decoder, sites, torch.arange(8)[None] % decoder.model.get_input_embeddings().num_embeddings)
    windows = load_tokens(inputs["tokens"]) if "tokens" in importance.needs else None
    with exclusive:
        scoring = ScoringInputs(decoder, sites, windows, params.batch)
        scores = importance.score(scoring, progress(params.importance["name"]))
    save_file({site.name: scores.of(site).contiguous() for site in sites}, out / "scores.safetensors")
    write_json(out / "notes.json", scores.notes)
    (out / GROUPS_TABLE).write_text(groups_table(sites) + "\n", encoding="utf-8")
    return {"per_parameter": scores.per_parameter, "families": list(params.families)}


def load_scores(artifact: Artifact) -> Scores:
    """The scores of an artifact of this step."""
    return Scores(load_file(artifact.path / "scores.safetensors"), artifact.facts["per_parameter"])


def load_decoder(source: Artifact, params: OnDevice, whole: bool) -> Decoder:
    """The model of an input, as a whole or block by block, where and as precise as params say."""
    running = params.running
    where = {"device": running.torch_device, "dtype": running.torch_dtype}
    trust = params.trust_remote_code
    if whole:
        return load_whole(source.path, trust, **where)
    return Decoder(source.path, read_config(source.path, trust_remote_code=trust), trust, **where)
