"""Whether the Fisher information puts the matrices in the order of the Hessian's trace."""

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import combinations
from typing import Any

import torch

from benchmarks.quality.entries import Entry, Recipe
from benchmarks.quality.figures import Bench
from benchmarks.quality.seeds import difference, runs_of
from benchmarks.studies.probe_agreement import between_sequences
from benchmarks.studies.probes import METHOD, PROBES, SEQUENCES, UNIFORM
from benchmarks.studies.study import StudySettings, judged, recipe
from benchmarks.studies.traces import SharedTraces, by_probes, profile_in, traces_in
from pruning_core.numerics.rank_correlation import rank_correlation
from tasks.pipeline.allocation import measured_sensitivity

DATA, SAMPLED, HESSIAN = "fisher", "fisher-sampled", "hutchinson"
TITLES = {DATA: "Fisher, the text's labels", SAMPLED: "Fisher, sampled labels", HESSIAN: "Hutchinson's trace"}
EVERY = "all matrices"


def measured(study: StudySettings, probes: int = PROBES, sequences: int = SEQUENCES) -> dict[str, Any]:
    """The figures as JSON; the section is made of them alone."""
    seeds = range(study.seeds)
    entries = {
        (name, seed): Entry(f"{name}-{seed}", TITLES.get(name, name), variant, seed=seed)
        for seed in seeds
        for name, variant in _recipes(study, probes, sequences, seed).items()
    }
    make = partial(SharedTraces, probes=probes, sequences=sequences)
    bench = Bench(study.root, study.overrides, entries.values(), make, divergence=False)
    dense, results = bench.dense(), judged(bench, entries, study.say)

    def way(name: str) -> dict[int, Any]:
        return {seed: results[name, seed] for seed in seeds}

    measures = {name: [_told(bench, entries[name, seed]) for seed in seeds] for name in TITLES}
    profiles = {name: [one["matrices"] for one in by_seed] for name, by_seed in measures.items()}
    return {
        "settings": bench.settings(),
        "dense": {"perplexity": dense.perplexity, "mean_loss": float(dense.losses.mean())},
        "probes": probes,
        "sequences": sequences,
        "profiles": profiles,
        "pairs": [
            {"first": first, "second": second, "rows": correlations(profiles[first], profiles[second])}
            for first, second in combinations(TITLES, 2)
        ],
        "themselves": [
            {"name": name, "halves": [one["halves"] for one in measures[name]], "seeds": between_seeds(profiles[name])}
            for name in TITLES
        ],
        "ways": [
            {
                "name": name,
                "title": TITLES.get(name, name),
                "runs": runs_of(way(name), dense),
                "above_hessian": difference(way(name), way(HESSIAN)),
                "above_uniform": difference(way(name), way(UNIFORM)),
            }
            for name in (UNIFORM, *TITLES)
        ],
    }


def _recipes(study: StudySettings, probes: int, sequences: int, seed: int) -> dict[str, Recipe]:
    """Way -> variant; the measures see the same windows."""
    plain, fisher = recipe(study.papers, METHOD), {"name": "fisher", "sequences": sequences}
    measures = {DATA: fisher, SAMPLED: fisher | {"labels": "sampled", "seed": seed}}
    allocations = {name: {"name": "by_sensitivity", "sensitivity": spec} for name, spec in measures.items()}
    allocations[HESSIAN] = by_probes(probes, sequences, seed)
    return {UNIFORM: plain} | {name: plain | {"allocation": allocation} for name, allocation in allocations.items()}


def _told(bench: Bench, entry: Entry) -> dict[str, Any]:
    """The sensitivities of a variant's allocation, and how they agree between two halves of the windows."""
    pipeline = bench.pipeline(entry)
    spec = entry.recipe["allocation"]["sensitivity"]
    if spec["name"] == HESSIAN:
        sensitivities = profile_in(pipeline.profile(pipeline.probes))
        return {
            "matrices": sensitivities.matrices,
            "halves": between_sequences(traces_in(pipeline.traces), pipeline.matrices),
        }
    sensitivities = profile_in(measured_sensitivity(pipeline, spec, pipeline.settings.recipe(entry.name)))
    return {"matrices": sensitivities.matrices, "halves": sensitivities.details["half_sample_rank_correlation"]}


def correlations(
    first: Sequence[Mapping[str, float]], second: Sequence[Mapping[str, float]]
) -> dict[str, list[float | None]]:
    """Rank correlation of each seed, over all matrices and over those of each kind, the last part of their names."""
    rows: dict[str, list[str]] = {EVERY: list(first[0])}
    for name in first[0]:
        rows.setdefault(name.rpartition(".")[2], []).append(name)
    return {
        row: [rank_correlation(_of(one, names), _of(other, names)) for one, other in zip(first, second, strict=True)]
        for row, names in rows.items()
    }


def between_seeds(profiles: Sequence[Mapping[str, float]]) -> list[float | None]:
    """Rank correlation of every two seeds, over all matrices."""
    names = list(profiles[0])
    return [rank_correlation(_of(one, names), _of(other, names)) for one, other in combinations(profiles, 2)]


def _of(profile: Mapping[str, float], names: Sequence[str]) -> torch.Tensor:
    return torch.tensor([profile[name] for name in names], dtype=torch.float64)
