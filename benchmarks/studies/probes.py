"""How many Hutchinson probes a mixed allocation needs: order of the matrices, sparsities, final perplexity."""

from functools import partial
from typing import Any

from benchmarks.quality.entries import Entry, Recipe
from benchmarks.quality.figures import Bench
from benchmarks.quality.seeds import difference, runs_of
from benchmarks.studies.probe_agreement import agreements, between_sequences, doublings_up_to, values_of
from benchmarks.studies.study import SPARSITY, StudySettings, judged, recipe
from benchmarks.studies.traces import SharedTraces, by_probes, profile_in, traces_in
from pruning_core.numerics.rank_correlation import rank_correlation
from tasks.pipeline.allocation import measured_sensitivity

METHOD = "sparsegpt"
UNIFORM, SUMMED, PUBLISHED = "uniform", "summed", "published"
PROBES, SEQUENCES = 64, 8
EACH = 2
"""Every so many doublings a model is made."""


def measured(study: StudySettings, probes: int = PROBES, sequences: int = SEQUENCES) -> dict[str, Any]:
    """The figures as JSON; the section is made of them alone."""
    seeds = range(study.seeds)
    entries = {
        (name, seed): Entry(f"probes-{name}-{seed}", title, _recipe(study, allocation), seed=seed)
        for seed in seeds
        for name, (title, allocation) in _ways(probes, sequences, seed).items()
    }
    make = partial(SharedTraces, probes=probes, sequences=sequences)
    bench = Bench(study.root, study.overrides, entries.values(), make, divergence=False)
    dense, results = bench.dense(), judged(bench, entries, study.say)

    def way(name: str) -> dict[int, Any]:
        return {seed: results[name, seed] for seed in seeds}

    ways = _ways(probes, sequences, 0)
    return {
        "settings": bench.settings(),
        "dense": {"perplexity": dense.perplexity, "mean_loss": float(dense.losses.mean())},
        "probes": probes,
        "sequences": sequences,
        "seeds": [_order(bench, entries[PUBLISHED, seed]) | {"seed": seed} for seed in seeds],
        "ways": [
            {
                "name": name,
                "title": title,
                "allocation": allocation,
                "runs": runs_of(way(name), dense),
                "above_all": difference(way(name), way(str(probes))),
                "above_uniform": difference(way(name), way(UNIFORM)),
            }
            for name, (title, allocation) in ways.items()
        ],
    }


def made_with(probes: int) -> list[int]:
    """Numbers of probes that a model is made with: every other doubling, and all."""
    return sorted({*doublings_up_to(probes)[::EACH], probes})


def _ways(probes: int, sequences: int, seed: int) -> dict[str, tuple[str, Recipe | None]]:
    """Name -> (title, allocation)."""
    by_name: dict[str, tuple[str, Recipe | None]] = {UNIFORM: ("uniform", None)}
    for count in made_with(probes):
        title = f"{count} probe{'s' if count > 1 else ''}"
        by_name[str(count)] = (title, by_probes(count, sequences, seed))
    by_name[SUMMED] = (f"{probes} probes, summed over a matrix", by_probes(probes, sequences, seed, "sum"))
    published = {"name": "hutchinson", "form": "mixgpt_code", "seed": seed}
    by_name[PUBLISHED] = (
        "as published: 1 probe, 1 window, summed",
        {"name": "by_sensitivity", "sensitivity": published},
    )
    return by_name


def _recipe(study: StudySettings, allocation: Recipe | None) -> Recipe:
    plain = recipe(study.papers, METHOD)
    return plain if allocation is None else plain | {"allocation": allocation}


def _order(bench: Bench, published: Entry) -> dict[str, Any]:
    """What the traces of one seed tell, and the published estimate beside their sums."""
    pipeline = bench.pipeline(published)
    traces, matrices = traces_in(pipeline.traces), pipeline.matrices
    spec = published.recipe["allocation"]["sensitivity"]
    sensitivities = profile_in(measured_sensitivity(pipeline, spec, pipeline.settings.recipe(published.name))).matrices
    sums = values_of(traces.mean(dim=2), matrices, "sum")
    return {
        "counts": agreements(traces, matrices, SPARSITY),
        "between_sequences": between_sequences(traces, matrices),
        "published_against_sums": rank_correlation(
            sums.new_tensor([sensitivities[one.name] for one in matrices]), sums
        ),
    }
