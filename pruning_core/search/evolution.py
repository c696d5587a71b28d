"""Evolutionary search: generations of candidates, staged selection, a state that is JSON after every generation."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from pruning_core.allocation.evolutionary import Evolutionary
from pruning_core.budget.knapsack_solver import knapsack
from pruning_core.budget.levels import Genome
from pruning_core.search.operators import Operators
from pruning_core.search.probing import near_probes, probed_errors, spread_probes


@dataclass(frozen=True)
class GenomeScores:
    """How far candidates are from the dense model."""

    fitness: list[float]
    """Each candidate's mean KL(dense || candidate), in nats per token."""
    forwards: tuple[int, int] = (0, 0)
    """Of blocks: those that were run, and all."""


Judge = Callable[[Sequence[Genome], Sequence[int]], GenomeScores]
"""(candidates, window numbers) -> how far each is from the dense model on those windows."""
PROBED = "knapsack probed"
"""The label of the starts that were measured on the whole model."""
TRIES = 20
"""Draws per wanted offspring before a generation goes on with fewer."""


@dataclass
class State:
    """All that a search goes on from; two equal states have equal futures."""

    rng: Mapping[str, Any] = field(repr=False)
    """Of numpy's PCG64."""
    parents: list[Genome]
    best: Genome
    """The candidate with the least validation fitness so far."""
    validation: dict[str, float] = field(repr=False)
    """Fitness on the validation windows of every candidate that was judged there, by `name_of` it."""
    initial: list[dict[str, Any]]
    """Per start its label, genome and fitness on the validation windows, in the order given."""
    generation: int = 0
    stale: int = 0
    """Generations since the best one improved by more than the settings ask for."""
    mark: float = 0.0
    """The fitness that an improvement is measured from."""
    history: list[dict[str, Any]] = field(default_factory=list, repr=False)
    """Per generation: number, fitness of the parent on that generation's own text, validation fitness of the parent
    and of the best so far, tokens evaluated so far."""
    tokens: int = 0
    """Evaluated so far: every candidate on every token that it was judged on."""
    forwards: list[int] = field(default_factory=lambda: [0, 0])
    """Block forwards run so far, and those that whole forwards would have taken."""

    def facts(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    @classmethod
    def of_facts(cls, facts: dict[str, Any]) -> "State":
        """The inverse of `facts`, also after JSON made lists of tuples."""
        state = cls(**facts)
        state.parents = [tuple(genome) for genome in state.parents]
        state.best = tuple(state.best)
        return state


def name_of(genome: Genome) -> str:
    """A genome as a key of JSON."""
    return ",".join(map(str, genome))


class Evolution:
    """One search.

    Args:
        settings: of the recipe.
        operators: on the levels of the model.
        judge: evaluates candidates.
        search: numbers of the windows that generations are judged on.
        validation: numbers of the windows that decide.
    """

    def __init__(
        self,
        settings: Evolutionary,
        operators: Operators,
        judge: Judge,
        search: Sequence[int],
        validation: Sequence[int],
    ) -> None:
        self.settings = settings
        self.operators = operators
        self._judge = judge
        self._search = list(search)
        self._held_out = list(validation)

    def begin(self, starts: dict[str, Genome]) -> State:
        """The state before the first generation: every start judged, and the best of them varied.

        Args:
            starts: label -> genome; at least one, but for a random start.
        """
        rng = np.random.default_rng(self.settings.seed)
        levels = self.operators.levels
        population = {label: levels.check(genome) for label, genome in starts.items()}
        state = State(rng.bit_generator.state, [], levels.start, {}, [])
        if self.settings.start == "informed" and self.settings.probes:
            population |= self._probed(state)
        self._validate(state, list(population.values()))
        ranked = self._ranked(state, population.values())
        missing = 0 if self.settings.start == "uniform" else self.settings.population - len(population)
        for number in range(missing):
            if self.settings.start == "random":
                genome = self.operators.random(rng)
            else:
                genome = self.operators.exchanged(ranked[0], int(rng.integers(2, 11)), rng)
            population[f"{'random' if self.settings.start == 'random' else 'varied'} {number + 1}"] = genome
        self._validate(state, list(population.values()))
        state.initial = [
            {"label": label, "genome": genome, "fitness": state.validation[name_of(genome)]}
            for label, genome in population.items()
        ]
        ranked = sorted(
            dict.fromkeys(population.values()), key=lambda genome: (state.validation[name_of(genome)], genome)
        )
        state.parents, state.best = ranked[: self._parents(state)], ranked[0]
        state.mark = state.validation[name_of(state.best)]
        state.rng = rng.bit_generator.state
        return state

    def finished(self, state: State) -> bool:
        """Whether all generations are done or nothing has improved for long."""
        return state.generation >= self.settings.generations or state.stale >= self.settings.patience

    def step(self, state: State) -> None:
        """One generation."""
        rng = np.random.default_rng(0)
        rng.bit_generator.state = state.rng
        parents, fitness = self._select(state, self._offspring(state, rng), rng)
        state.parents = parents
        self._validate(state, parents[:1])
        validation = state.validation[name_of(parents[0])]
        if validation < state.validation[name_of(state.best)]:
            state.best = parents[0]
        best = state.validation[name_of(state.best)]
        improved = best < state.mark * (1 - self.settings.improvement)
        state.stale, state.mark = (0, best) if improved else (state.stale + 1, state.mark)
        state.generation += 1
        state.rng = rng.bit_generator.state
        entry = {"generation": state.generation, "fitness": fitness, "validation": validation, "best": best}
        state.history.append(entry | {"tokens": state.tokens})

    def _parents(self, state: State) -> int:
        first = state.generation < self.settings.phase_one * self.settings.generations
        return self.settings.parents if first else 1

    def _offspring(self, state: State, rng: np.random.Generator) -> list[Genome]:
        """Distinct candidates, none of them a parent; fewer than wanted where so many cannot be found."""
        parents = state.parents
        offspring: dict[Genome, None] = {}
        for _ in range(TRIES * self.settings.offspring):
            if len(offspring) == self.settings.offspring:
                break
            child = parents[int(rng.integers(len(parents)))]
            if len(parents) > 1 and rng.random() < self.settings.crossover:
                child = self.operators.crossed(child, parents[int(rng.integers(len(parents)))], rng)
            child = self.operators.mutated(child, rng)
            if child not in parents:
                offspring[child] = None
        return list(offspring)

    def _select(self, state: State, candidates: list[Genome], rng: np.random.Generator) -> tuple[list[Genome], float]:
        """The parents of the next generation, best first, and the fitness of the best of them in the last stage."""
        last = len(self.settings.survivors) - 1
        for stage, (survivors, tokens) in enumerate(zip(self.settings.survivors, self.settings.tokens, strict=True)):
            if stage == last:
                # By the stage's place: a stage before it may let as few survive.
                candidates = [*candidates, *state.parents]
                survivors = self._parents(state)
            drawn = rng.choice(len(self._search), size=tokens // self.settings.length, replace=False)
            rows = [self._search[index] for index in sorted(drawn.tolist())]
            fitness = dict(zip(candidates, self._evaluate(state, candidates, rows), strict=True))
            candidates = sorted(candidates, key=lambda genome: (fitness[genome], genome))[:survivors]
        return candidates, fitness[candidates[0]]

    def _probed(self, state: State) -> dict[str, Genome]:
        """Label -> the knapsack's choice by what each matrix does to the whole model on its own.

        The first round looks at all levels around uniform, each one after it near the result of the one before.
        """
        count = self.settings.probe_tokens // self.settings.length
        rows = [self._search[index * len(self._search) // count] for index in range(count)]
        levels, starts = self.operators.levels, {}
        around, probes = levels.start, spread_probes(levels, self.settings.probes)
        for number in range(1, self.settings.probe_rounds + 1):
            errors = probed_errors(levels, lambda genomes: self._evaluate(state, genomes, rows), around, probes)
            around = starts[f"{PROBED} {number}"] = knapsack(levels, errors)
            probes = near_probes(levels, around)
        return starts

    def _ranked(self, state: State, genomes: Iterable[Genome]) -> list[Genome]:
        """Distinct, the least validation fitness first."""
        return sorted(dict.fromkeys(genomes), key=lambda genome: (state.validation[name_of(genome)], genome))

    def _validate(self, state: State, genomes: Sequence[Genome]) -> None:
        """Evaluate on the validation windows what was not evaluated there before."""
        new = [genome for genome in dict.fromkeys(genomes) if name_of(genome) not in state.validation]
        if new:
            fitness = self._evaluate(state, new, self._held_out)
            state.validation |= {name_of(genome): value for genome, value in zip(new, fitness, strict=True)}

    def _evaluate(self, state: State, genomes: Sequence[Genome], rows: Sequence[int]) -> list[float]:
        """The fitness of each candidate on some windows, counted."""
        scores = self._judge(genomes, rows)
        state.tokens += len(genomes) * len(rows) * self.settings.length
        state.forwards = [a + b for a, b in zip(state.forwards, scores.forwards, strict=True)]
        return scores.fitness
