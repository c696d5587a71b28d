"""The search on a fitness whose optimum is known: what is kept, what is drawn, and that it can be gone on with."""

import json
from collections.abc import Sequence

import pytest

from pruning_core.allocation.evolutionary import Evolutionary
from pruning_core.budget.levels import Genome, Levels, n_of_m_levels, unstructured_levels
from pruning_core.compress.shares import Matrix
from pruning_core.errors import InputError
from pruning_core.search.evolution import PROBED, Evolution, GenomeScores, State
from pruning_core.search.operators import Operators
from pruning_core.search.probing import near_probes, probed_errors, spread_probes

SMALL = {"length": 16, "windows": 24, "validation": 8, "tokens": [32, 64], "probe_tokens": 32, "offspring": 8}
SMALL |= {"survivors": [3, 1], "generations": 12, "population": 5, "probes": 0, "initial": []}


def levels(unit: str = "zeros") -> Levels:
    matrices = tuple(Matrix(f"m{i}", i // 3, 32, 32 + 16 * (i % 2)) for i in range(12))
    return unstructured_levels(matrices, 0.7, count=12) if unit == "zeros" else n_of_m_levels(matrices, 2, 8)


class Quadratic:
    """Divergence = sum of squared distances to a wanted genome, plus what depends on the window; notes its calls."""

    def __init__(self, wanted: Sequence[float], noise: float = 0.0) -> None:
        self.wanted = wanted
        self.noise = noise
        self.calls: list[tuple[tuple[Genome, ...], tuple[int, ...]]] = []

    def value(self, genome: Genome, rows: Sequence[int]) -> float:
        distance = sum((a - b) ** 2 for a, b in zip(genome, self.wanted, strict=True))
        return distance + self.noise * sum((hash((genome, row)) % 1000) / 1000 for row in rows) / len(rows)

    def __call__(self, genomes: Sequence[Genome], rows: Sequence[int]) -> GenomeScores:
        self.calls.append((tuple(genomes), tuple(rows)))
        return GenomeScores([self.value(genome, rows) for genome in genomes], (len(genomes), 2 * len(genomes)))


def wanted(menu: Levels) -> list[float]:
    """Alternately two levels denser and sparser than uniform, which keeps the budget."""
    return [level + (2 if index % 4 < 2 else -2) for index, level in enumerate(menu.start)]


def evolution(judge: Quadratic, menu: Levels, **settings) -> Evolution:
    chosen = Evolutionary(**SMALL | settings)
    errors = [[float(level) for level in range(len(row))] for row in menu.shares]
    return Evolution(chosen, Operators(menu, errors), judge, range(24), range(24, 32))


def run(search: Evolution, starts: dict[str, Genome]) -> State:
    state = search.begin(starts)
    while not search.finished(state):
        search.step(state)
    return state


def test_the_result_is_never_worse_than_the_best_start_and_every_parent_keeps_the_budget():
    menu = levels()
    for seed in range(5):
        # Noise so large that parents get worse now and then.
        judge = Quadratic(wanted(menu), noise=20.0)
        state = run(evolution(judge, menu, seed=seed), {"uniform": menu.start})
        judged = {tuple(start["genome"]): start["fitness"] for start in state.initial}
        assert judge.value(state.best, range(24, 32)) <= min(judged.values())
        assert all(menu.fits(genome) for genomes, _ in judge.calls for genome in genomes)
        bests = [entry["best"] for entry in state.history]
        assert bests == sorted(bests, reverse=True)


def test_a_parent_is_only_replaced_by_what_is_better_on_the_same_text():
    menu = levels()
    judge = Quadratic(wanted(menu), noise=20.0)
    search = evolution(judge, menu, phase_one=0.0)
    state = search.begin({"uniform": menu.start})
    for _ in range(8):
        parent = state.parents[0]
        search.step(state)
        genomes, rows = next(call for call in judge.calls[::-1] if len(call[1]) == 4)
        assert parent in genomes
        assert judge.value(state.parents[0], rows) == min(judge.value(genome, rows) for genome in genomes)


def test_the_search_finds_a_known_optimum():
    menu = levels()
    state = run(evolution(Quadratic(wanted(menu)), menu, generations=150, patience=150), {"uniform": menu.start})
    assert state.best == tuple(wanted(menu))


@pytest.mark.parametrize("unit", ["zeros", "n"])
def test_equal_seeds_give_equal_searches_and_others_do_not(unit: str):
    menu = levels(unit)

    def searched(seed: int) -> dict:
        aim = [level - (index % 2) for index, level in enumerate(menu.start)]
        return run(evolution(Quadratic(aim), menu, seed=seed), {"uniform": menu.start}).facts()

    assert searched(3) == searched(3) != searched(4)


def test_a_search_goes_on_from_its_json_to_the_same_end():
    menu = levels()
    whole = run(evolution(Quadratic(wanted(menu)), menu), {"uniform": menu.start})
    search = evolution(Quadratic(wanted(menu)), menu)
    state = search.begin({"uniform": menu.start})
    while not search.finished(state):
        # Another process each time: nothing but the JSON is left.
        search = evolution(Quadratic(wanted(menu)), menu)
        state = State.of_facts(json.loads(json.dumps(state.facts())))
        search.step(state)
    assert json.dumps(state.facts()) == json.dumps(whole.facts())


@pytest.mark.parametrize("survivors", [[1, 1], [3, 1], [1]])
def test_the_parent_joins_in_the_last_stage_alone_however_many_survive(survivors: list[int]):
    menu = levels()
    judge = Quadratic(wanted(menu))
    tokens = [32, 64][-len(survivors) :]
    search = evolution(judge, menu, survivors=survivors, tokens=tokens, phase_one=0.0, probe_tokens=32)
    state = search.begin({"uniform": menu.start})
    for _ in range(4):
        parent, before = state.parents[0], len(judge.calls)
        search.step(state)
        stages = [genomes for genomes, rows in judge.calls[before:] if max(rows) < 24]
        assert len(stages) == len(survivors)
        assert [parent in genomes for genomes in stages] == [False] * (len(survivors) - 1) + [True]
        assert len(stages[0]) == 8 + (len(survivors) == 1)


def test_stages_draw_fresh_search_windows_and_never_the_held_out_ones():
    menu = levels()
    judge = Quadratic(wanted(menu))
    run(evolution(judge, menu), {"uniform": menu.start})
    drawn = [rows for _, rows in judge.calls if rows != tuple(range(24, 32))]
    assert all(len(set(rows)) == len(rows) and set(rows) <= set(range(24)) for rows in drawn)
    assert {len(rows) for rows in drawn} == {2, 4} and len(set(drawn)) > len(drawn) // 2


def test_no_candidate_is_judged_twice_on_the_same_text():
    menu = levels()
    judge = Quadratic(wanted(menu))
    state = run(evolution(judge, menu), {"uniform": menu.start, "same": menu.start})
    pairs = [(genome, rows) for genomes, rows in judge.calls for genome in genomes if rows == tuple(range(24, 32))]
    assert len(pairs) == len(set(pairs))
    assert state.tokens == sum(16 * len(genomes) * len(rows) for genomes, rows in judge.calls)
    assert state.forwards[1] == 2 * state.forwards[0] == 2 * sum(len(genomes) for genomes, _ in judge.calls)


def test_a_search_without_improvement_stops_after_its_patience():
    menu = levels()
    judge = Quadratic(menu.start)
    state = run(evolution(judge, menu, generations=50, patience=6), {"uniform": menu.start})
    assert state.generation == 6 and state.best == menu.start


def test_a_random_start_knows_no_allocation_and_a_uniform_one_no_other():
    menu = levels()
    random = evolution(Quadratic(wanted(menu)), menu, start="random").begin({})
    assert len({tuple(start["genome"]) for start in random.initial}) == 5
    assert menu.start not in [tuple(start["genome"]) for start in random.initial]
    uniform = evolution(Quadratic(wanted(menu)), menu, start="uniform").begin({"uniform": menu.start})
    assert [start["genome"] for start in uniform.initial] == [menu.start]


def test_probes_solve_a_fitness_whose_matrices_do_not_act_on_each_other():
    menu = levels()
    most = max(len(row) for row in menu.shares)
    state = evolution(Quadratic(wanted(menu)), menu, probes=most).begin({"uniform": menu.start})
    found = {start["label"]: tuple(start["genome"]) for start in state.initial}
    assert found[f"{PROBED} 1"] == tuple(wanted(menu))


def test_probed_errors_are_measured_one_matrix_at_a_time_and_interpolated_between():
    menu = levels()
    aim = Quadratic(menu.start)
    errors = probed_errors(menu, lambda genomes: aim(genomes, [0]).fitness, menu.start, spread_probes(menu, 255))
    for start, row in zip(menu.start, errors, strict=True):
        assert row == pytest.approx([(level - start) ** 2 for level in range(len(row))])
    near = probed_errors(menu, lambda genomes: aim(genomes, [0]).fitness, menu.start, near_probes(menu, menu.start))
    start = menu.start[0]
    assert near[0][start - 2 : start + 3] == pytest.approx([4.0, 2.0, 0.0, 2.0, 4.0])
    assert min(near[0][: start - 2] + near[0][start + 3 :], default=1e9) >= 1e9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"survivors": [3]}, "one number per stage"),
        ({"survivors": [3, 2]}, "end with 1"),
        ({"survivors": [9, 1]}, "must not grow"),
        ({"tokens": [32, 65]}, "no whole number of windows"),
        ({"tokens": [32, 16 * 25]}, "set windows higher"),
    ],
)
def test_stages_that_cannot_be_are_told(change: dict, message: str):
    with pytest.raises(ValueError, match=message):
        Evolutionary(**SMALL | change)


def test_a_search_cannot_start_from_a_search():
    chosen = Evolutionary(**SMALL | {"initial": [{"name": "evolutionary"}]})
    with pytest.raises(InputError, match="cannot start from evolutionary"):
        chosen.check("zeros", 0.5)
