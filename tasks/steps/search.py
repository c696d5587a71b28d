"""Step: search an allocation over stored levels; a killed search resumes at its last generation."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pruning_core.allocation import ALLOCATIONS, Request
from pruning_core.allocation.evolutionary import Evolutionary
from pruning_core.budget.level_errors import level_errors
from pruning_core.budget.levels import Genome, Levels
from pruning_core.budget.repair import nearest_genome
from pruning_core.compress.shares import matrices_of
from pruning_core.search.evolution import State
from pruning_core.search.operators import Operators
from pruning_core.sensitivity import Profile
from pruning_core.settings.compute import Workers
from tasks.engine.step import Context, step
from tasks.steps.allocation import write_allocation
from tasks.steps.hidden_states import decoder_of, exclusive
from tasks.steps.levels import measured_levels
from tasks.steps.running import OnDevice
from tasks.steps.search_generations import run_search
from tasks.steps.sensitivity import PROFILE
from tasks.store.artifact import Artifact
from tasks.store.canonical_json import write_json

RESULT = "search.json"
EVENT = "searched"


@dataclass(frozen=True, kw_only=True)
class SearchParams(OnDevice):
    """As of the step `allocation`, whose result this is another way to.

    Args:
        allocation: an evolutionary one, as in a recipe.
        unit: zeros of a matrix, or the n of n:m patterns.
        m: of n:m patterns.
        target: removed fraction.
        workers: which evaluate candidates, as in params.yaml.
    """

    allocation: dict[str, Any]
    unit: str
    m: int | None
    target: float
    workers: dict[str, Any]


def search_modules(params: SearchParams) -> list[str]:
    """The modules of the allocations that these params start from."""
    return [ALLOCATIONS.module(chosen.name) for chosen in (settings_of(params), *settings_of(params).starts)]


def settings_of(params: SearchParams) -> Evolutionary:
    """The search that the params describe."""
    return ALLOCATIONS.build(params.allocation, "allocation")


@step("search", modules=search_modules, unkeyed=("workers",))
def search(params: SearchParams, inputs: dict[str, Artifact], out: Path, context: Context) -> dict[str, Any]:
    """Search the allocation of a model.

    inputs: source; tokens (windows of search text); levels-0, levels-1, ... of the blocks; sensitivity-N where the
        allocation N of `initial` needs one.
    writes: shares.json as the step allocation does; search.json {initial, history, best}.
    """
    with exclusive:
        matrices = matrices_of(decoder_of(inputs["source"], params.trust_remote_code))
        settings = settings_of(params)
        blocks = [inputs[f"levels-{index}"] for index in range(1 + matrices[-1].block)]
        request = Request(matrices, params.unit, params.m, params.target)
        levels, measured = settings.levels_for(request), measured_levels(blocks)
        starts, ledger = _starts(settings, request, levels, measured, inputs)
        state = State({}, [], levels.start, {}, [])
        if sum(len(row) > 1 for row in levels.gene_zeros) > 1:
            operators = Operators(levels, _repair_errors(measured))
            workers = Workers(**params.workers)
            ran = run_search(params, workers, inputs, context.scratch, settings, operators, starts)
            # How fast it was is no part of the result, which is the same wherever and in however many goes it ran.
            context.store.events.record(EVENT, key=context.key, tokens=str(ran.tokens), seconds=f"{ran.seconds:.3f}")
            state = ran.state
        else:
            ledger.append({"event": "degenerate", "what": "nothing can be exchanged", "rule": "uniform"})
    facts = write_allocation(settings, request, levels.shares_of(state.best), out)
    write_json(out / RESULT, {"initial": state.initial, "history": state.history, "best": state.best})
    return facts | {"search": _summary(state), "ledger": ledger}


def _summary(state: State) -> dict[str, Any]:
    best = min(state.validation.values(), default=None)
    starts = [{"label": start["label"], "fitness": start["fitness"]} for start in state.initial]
    saved = 1 - state.forwards[0] / state.forwards[1] if state.forwards[1] else 0.0
    counts = {"generations": state.generation, "tokens": state.tokens, "evaluations": len(state.validation)}
    return {"fitness": best, "initial": starts, "forwards_saved": saved, **counts}


def _starts(
    settings: Evolutionary,
    request: Request,
    levels: Levels,
    measured: list[dict[str, Any]],
    inputs: dict[str, Artifact],
) -> tuple[dict[str, Genome], list[dict[str, Any]]]:
    """Label -> genome of every start, and a ledger of allocations that could not tell matrices apart."""
    starts: dict[str, Genome] = {} if settings.start == "random" else {"uniform": levels.start}
    ledger = []
    for number, (allocation, spec) in enumerate(zip(settings.starts, settings.initial, strict=False)):
        profile = _profile(inputs.get(f"sensitivity-{number}"))
        start_request = Request(request.matrices, request.unit, request.m, request.target, profile)
        if "levels" in allocation.needs:
            errors = allocation.errors_of(measured, start_request)
            start_request = Request(request.matrices, request.unit, request.m, request.target, profile, levels, errors)
        label = _label(spec, starts)
        starts[label] = nearest_genome(levels, allocation.shares(start_request))
        if starts[label] == levels.start and allocation.name != "uniform":
            ledger.append({"event": "degenerate", "what": f"{label} tells no matrix from another", "rule": "uniform"})
    return starts, ledger


def _label(spec: dict[str, Any], taken: dict[str, Genome]) -> str:
    kind = spec.get("errors") or (spec.get("sensitivity") or {}).get("name")
    label = f"{spec['name']} {kind}" if kind else spec["name"]
    return label if label not in taken else f"{label} {len(taken)}"


def _profile(artifact: Artifact | None) -> Profile | None:
    return Profile.of_facts(json.loads((artifact.path / PROFILE).read_text())) if artifact else None


def _repair_errors(measured: list[dict[str, Any]]) -> list[list[float]]:
    """The errors that repairs go by: the lost share of the outputs, or of the weights where there are no statistics."""
    if all(level["loss"] is not None for facts in measured for level in facts["levels"]):
        return level_errors(measured, "relative_output")
    weights = {facts["name"]: 2 / (facts["weight_square"] or 1.0) for facts in measured}
    return level_errors(measured, "fisher", weights)
