"""The studies: their plot, their differences over seeds, their texts, and runs on a tiny model."""

import json
import re
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from scipy.stats import spearmanr
from typer.testing import CliRunner

from benchmarks.common.sections import put_section, sections
from benchmarks.common.spreads import SpreadPanel, doublings, evenly, spread_plot
from benchmarks.quality.entries import PAPERS, Entry
from benchmarks.quality.figures import Bench
from benchmarks.quality.seeds import SeedDifference, ledger, seed_difference, verdict
from benchmarks.studies.__main__ import app
from benchmarks.studies.calibration_size import reading
from benchmarks.studies.fisher_hessian import EVERY, between_seeds, correlations
from benchmarks.studies.probe_agreement import agreements, between_sequences, doublings_up_to
from benchmarks.studies.probes import made_with
from benchmarks.studies.study import recipe
from benchmarks.studies.texts import comments, manual, random_text
from benchmarks.studies.traces import SharedTraces, by_probes
from benchmarks.studies.windows import OneDraw
from pruning_core.checkpoint.model_files import read_tokenizer
from pruning_core.compress.shares import Matrix
from pruning_core.errors import InputError
from pruning_core.text.tokenized.windows import token_digest
from tasks.report.charts import svg
from tasks.steps.allocation import load_shares
from tasks.steps.hidden_states import load_tokens
from tasks.workspace.params import read_params

MATRICES = tuple(Matrix(f"model.layers.{block}.{kind}", block, 40, 60) for block in range(3) for kind in ("q", "down"))
PAPER_RECIPES = read_params(PAPERS)["variants"]


def dots(axes: Axes) -> dict[str, list[tuple[float, float]]]:
    """Name in the legend -> where the figure has the dots of its seeds, in pixels from the lower left corner."""
    named = {text.get_text() for text in axes.get_legend().get_texts()}
    lines = [line for line in axes.get_lines() if line.get_label() in named]
    assert len(lines) == len(named)
    return {line.get_label(): [*map(tuple, axes.transData.transform(line.get_xydata()))] for line in lines}


def test_a_doubling_is_one_length_and_every_seed_a_dot():
    values = {"4": [1.0, 2.0], "8": [3.0], "32": [4.0]}
    figure = spread_plot([SpreadPanel("loss", doublings([4, 8, 32]), {"a<": values}, "windows", ("dense", 0.5), True)])
    [axes] = figure.axes
    [(name, seeds)] = dots(axes).items()
    (x0, y0), (x1, y1), (x2, y2), (x3, y3) = seeds
    assert name == "a<" and x0 == x1 and x3 - x2 == pytest.approx(2 * (x2 - x0))
    # Equal steps upwards for equal steps of the value.
    assert y1 - y0 == pytest.approx(y2 - y1) and y3 - y2 == pytest.approx(y2 - y1) and y1 > y0
    # The line through the means, and the extremes of each tick.
    assert sorted(axes.get_lines()[1].get_ydata(), reverse=True) == [4.0, 3.0, 1.5]
    assert [segment[:, 1].tolist() for segment in axes.collections[0].get_segments()] == [[1, 2], [3, 3], [4, 4]]
    texts = re.findall("<text[^>]*>([^<]*)</text>", svg(figure))
    assert {"loss", "windows", "4", "32", "a&lt;", "dense 0.5"} <= {*texts}


def test_series_at_one_tick_lie_beside_each_other_and_panels_below():
    panel = SpreadPanel("one", evenly(["x", "y"]), {"a": {"x": [10.0], "y": [1000.0]}, "b": {"x": [100.0]}})
    logarithmic = SpreadPanel("two", panel.ticks, panel.series, logarithmic=True)
    above, below = map(dots, spread_plot([panel, logarithmic]).axes)
    [a, _], [b] = above["a"], above["b"]
    [a_below, far_below], [b_below] = below["a"], below["b"]
    assert a[0] < b[0] and a_below[0] == a[0]
    assert b_below[1] - a_below[1] == pytest.approx(far_below[1] - b_below[1])
    assert max(a_below[1], far_below[1]) < a[1]


def test_equal_values_are_drawn_too():
    [axes] = spread_plot([SpreadPanel("one", evenly(["x"]), {"a": {"x": [1.0, 1.0]}})]).axes
    assert len(dots(axes)["a"]) == 2


def test_the_error_of_a_difference_covers_windows_and_seeds():
    draw = np.random.default_rng(0)
    first, second = draw.normal(size=(3, 40)) + 0.5, draw.normal(size=(3, 40))
    difference = seed_difference([*map(torch.tensor, first)], [*map(torch.tensor, second)])
    apart = first - second
    of_windows = apart.mean(axis=0).std(ddof=1) / 40**0.5
    of_seeds = apart.mean(axis=1).std(ddof=1) / 3**0.5
    assert difference.mean == pytest.approx(apart.mean())
    assert difference.standard_error == pytest.approx(np.hypot(of_windows, of_seeds))
    assert (difference.low, difference.high) == pytest.approx((apart.mean(axis=1).min(), apart.mean(axis=1).max()))


def test_a_single_seed_leaves_the_error_of_the_windows():
    difference = seed_difference([torch.tensor([1.0, 2.0])], [torch.tensor([0.0, 0.0])])
    assert difference == SeedDifference(1.5, 0.5, 1.5, 1.5) and difference.certain


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (SeedDifference(0.5, 0.1, 0.4, 0.6), "worse"),
        (SeedDifference(-0.5, 0.1, -0.6, -0.4), "better"),
        (SeedDifference(0.15, 0.1, 0.1, 0.2), "no certain difference"),
        # One seed says the opposite.
        (SeedDifference(0.5, 0.1, -0.1, 0.9), "no certain difference"),
        (SeedDifference(0.5, None, 0.4, 0.6), "no certain difference"),
    ],
)
def test_a_difference_counts_where_it_is_large_and_of_one_sign(change: SeedDifference, word: str):
    assert verdict(change.facts(), "worse", "better") == word


def test_the_ledger_tells_the_worst_seed():
    assert ledger([{"ledger": {"b": 1}}, {"ledger": {"b": 3, "a": 1}}]) == "a 1, b 3"
    assert ledger([{"ledger": {}}]) == "-"


def size_facts(differences: list[tuple[float, bool]]) -> dict:
    """Figures of two methods alike; (difference to the most windows, whether certain) at 4, 8, 16, ... windows."""
    sizes = [
        {
            "windows": 4 * 2**place,
            "runs": [{"above_dense": 1 + mean, "seed": 0}, {"above_dense": 1.5 + mean, "seed": 1}],
            "above_largest": {"mean": mean, "standard_error": 0.01, "certain": certain},
        }
        for place, (mean, certain) in enumerate(differences)
    ]
    apart = [{"windows": one["windows"], **one["above_largest"]} for one in sizes]
    methods = [{"title": "Wanda", "sizes": sizes}, {"title": "SparseGPT", "sizes": sizes}]
    return {"settings": {"length": 256}, "methods": methods, "apart": apart}


def test_enough_windows_are_the_fewest_behind_which_nothing_is_certain_any_more():
    facts = size_facts([(0.4, True), (0.01, False), (0.2, True), (0.015, False), (0.0, False)])
    text = next(reading(facts))
    assert "loss above dense 1.6500 with 4 windows (1,024 tokens), 1.2500 with 64 (+0.4000 ± 0.0100, higher)" in text
    assert "From 32 windows on no certain difference to 64 is left (+0.0150 ± 0.0100 there)." in text
    # The most are the fewest that are not told apart from themselves.
    assert next(reading(size_facts([(0.4, True), (0.0, False)]))).endswith("No fewer than 8 are certain to do as well.")


def test_fewer_probes_agree_as_their_ranks_do():
    draw = torch.Generator().manual_seed(0)
    traces = torch.rand(6, 8, 3, generator=draw, dtype=torch.float64) + torch.arange(6)[:, None, None] / 4
    rows = agreements(traces, MATRICES, 0.5)
    probes = traces.mean(dim=2).numpy()
    assert [row["probes"] for row in rows] == [1, 2, 4, 8]
    for row in rows:
        groups = [group.mean(axis=1) for group in np.split(probes, 8 // row["probes"], axis=1)]
        against = np.mean([spearmanr(group, probes.mean(axis=1)).statistic for group in groups])
        assert row["against_all"] == pytest.approx(against)
        if len(groups) > 1:
            pairs = zip(groups[::2], groups[1::2], strict=True)
            assert row["between"] == pytest.approx(np.mean([spearmanr(*pair).statistic for pair in pairs]))
    assert rows[-1]["between"] is None and rows[-1]["moved"] == 0 and rows[-1]["against_all"] == pytest.approx(1)
    halves = (traces.mean(dim=1)[:, start::2].mean(dim=1) for start in (0, 1))
    assert between_sequences(traces, MATRICES) == pytest.approx(spearmanr(*halves).statistic)


def test_probes_that_differ_move_the_sparsities_as_far_as_their_logarithms():
    # Two probes whose logarithms span the range in opposite orders; all matrices are of one size.
    up = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0, 32.0], dtype=torch.float64)
    traces = torch.stack([up, up.flip(0)], dim=1)[:, :, None]
    row = agreements(traces, MATRICES, 0.5)[0]
    own = 0.5 - 0.1 * (2 * np.arange(6) / 5 - 1)
    both = np.log((up + up.flip(0)).numpy())
    of_both = -0.1 * (2 * (both - both.min()) / (both.max() - both.min()) - 1)
    of_both += 0.5 - of_both.mean()
    moved = np.mean([np.abs(own - of_both).mean(), np.abs(own[::-1] - of_both).mean()])
    # Whole weights of 2,400.
    assert row["moved"] == pytest.approx(moved, abs=1 / 2400)
    assert row["away"] == pytest.approx(np.abs(own - 0.5).mean(), abs=1 / 2400)
    assert row["between"] == pytest.approx(-1)


def test_negative_traces_are_counted_before_they_become_zero():
    traces = torch.tensor([[-1.0, -1.0], [1.0, 1.0], [-1.0, 3.0], [2.0, 2.0], [3.0, 3.0], [4.0, 4.0]]).double()
    rows = agreements(traces[:, :, None], MATRICES, 0.5)
    assert [row["negative"] for row in rows] == pytest.approx([(2 / 6 + 1 / 6) / 2, 1 / 6])


@pytest.mark.parametrize(
    ("most", "counts", "made"),
    [(1, [1], [1]), (2, [1, 2], [1, 2]), (8, [1, 2, 4, 8], [1, 4, 8]), (6, [1, 2, 4, 6], [1, 4, 6])],
)
def test_probes_are_counted_in_doublings_up_to_all(most: int, counts: list[int], made: list[int]):
    assert doublings_up_to(most) == counts and made_with(most) == made


def test_matrices_are_compared_within_their_kind():
    names = [matrix.name for matrix in MATRICES]
    first = dict(zip(names, [1.0, 9.0, 2.0, 8.0, 3.0, 7.0], strict=True))
    second = dict(zip(names, [1.0, 5.0, 2.0, 6.0, 3.0, 7.0], strict=True))
    rows = correlations([first, second], [second, second])
    assert rows["q"] == pytest.approx([1, 1]) and rows["down"] == pytest.approx([-1, 1])
    every = spearmanr([*first.values()], [*second.values()]).statistic
    assert rows[EVERY] == pytest.approx([every, 1])
    assert between_seeds([first, second, second]) == pytest.approx([every, every, 1])
    assert between_seeds([first]) == []


def test_comments_are_what_is_left_without_the_code():
    source = '''#!/usr/bin/env python
"""A module.

    Indented.
"""
text = "no docstring"  # told twice
class Known:
    def run(self):
        """Run."""
        # why
        return "# no comment"
'''
    found = list(comments([source, "x = 1\n"]))
    assert found == ["A module.\n\nIndented.\n\nRun.\n\n/usr/bin/env python\ntold twice\nwhy"]


def test_the_manual_is_prose():
    words = " ".join(manual()).split()
    assert len(words) > 50_000 and words.count("the") > words.count("=")


def test_random_tokens_come_evenly_from_the_vocabulary(tiny_directory: Path):
    tokenizer = read_tokenizer(tiny_directory)
    ids = tokenizer(random_text(tokenizer, 9800))["input_ids"]
    counts = np.bincount(ids, minlength=50)
    # w0 is the unknown token, which is never drawn.
    assert len(ids) == 9800 and counts[0] == 0
    # 200 of each are expected; five standard deviations.
    assert np.abs(counts[1:] - 200).max() < 70


def test_small_samples_are_spread_over_the_draw_and_lie_within_larger_ones(workspace_root: Path, monkeypatch):
    monkeypatch.chdir(workspace_root)
    entries = [
        Entry(f"n{n}", "", recipe(PAPER_RECIPES, "wanda"), overrides=(f"calibration.sequences={n}",)) for n in (2, 4)
    ]
    bench = Bench(workspace_root, [], entries, partial(OneDraw, drawn=8))
    whole = load_tokens(bench.home.calibration)
    two, four = (load_tokens(bench.pipeline(entry).calibration) for entry in entries)
    assert torch.equal(two, whole[[0, 4]]) and torch.equal(four, whole[[0, 2, 4, 6]])
    facts = bench.pipeline(entries[0]).calibration.facts
    assert facts["windows"] == 2 and facts["token_digest"] == token_digest(two)


@pytest.fixture
def run(short_workspace: Path):
    """run(study, *arguments) in a workspace with a tiny model; returns (page, figures)."""

    def command(study: str, *arguments: str) -> tuple[str, dict]:
        given = [study, "--settings", "short.yaml", "--out", "pages/results.md", *arguments]
        done = CliRunner().invoke(app, given, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        pages = short_workspace / "pages"
        text = sections((pages / "results.md").read_text())[f"studies-{study}"]
        assert f"results-{study}.svg" in text and ".espalier" not in text
        ElementTree.parse(pages / f"results-{study}.svg")
        return text, json.loads((pages / f"results-{study}.json").read_text())

    return command


def plain_perplexity(root: Path, method: str, seed: int | None, *overrides: str) -> float:
    """Perplexity of a method as the pipeline of the settings makes it, without any study."""
    entry = Entry("plain", "plain", recipe(PAPER_RECIPES, method), seed=seed)
    return Bench(root, ["@short.yaml", *overrides], [entry]).figures(entry).perplexity


def test_sizes_are_numbers_of_calibration_windows(run, workspace_root: Path):
    text, facts = run("calibration-size", "--size", "8", "--size", "3", "--seeds", "2")
    for method in facts["methods"]:
        assert [one["windows"] for one in method["sizes"]] == [3, 8]
        for one in method["sizes"]:
            assert len({run_figures["perplexity"] for run_figures in one["runs"]}) == 2
            row = next(line for line in text.partition(method["title"])[2].splitlines() if line.startswith("| 3 |"))
            assert row.count("|") == 7
        # As many windows as were drawn are the draw, and as many as the settings say are theirs.
        expected = [plain_perplexity(workspace_root, method["name"], seed) for seed in (0, 1)]
        assert [run_figures["perplexity"] for run_figures in method["sizes"][-1]["runs"]] == expected
        few, many = ([run_figures["above_dense"] for run_figures in one["runs"]] for one in method["sizes"])
        assert method["sizes"][0]["above_largest"]["mean"] == pytest.approx(np.mean(few) - np.mean(many))
    assert "## Wanda" in text and "## SparseGPT" in text and "seeds: 2" in text


def test_a_study_leaves_other_sections_alone_and_a_second_run_computes_nothing(run, workspace_root: Path):
    pages = workspace_root / "pages"
    put_section(pages / "results.md", "ladder-x", "Kept.")
    arguments = ("probes", "--probes", "4", "--sequences", "2", "--seeds", "1")
    run(*arguments)
    files = sorted(pages.iterdir())
    before = [file.read_bytes() for file in files]
    objects = sorted(path.name for path in (workspace_root / ".espalier" / "objects").iterdir())
    run(*arguments)
    assert [file.read_bytes() for file in files] == before
    assert sorted(path.name for path in (workspace_root / ".espalier" / "objects").iterdir()) == objects
    assert sections((pages / "results.md").read_text())["ladder-x"] == "Kept."


def test_probes_are_measured_against_all_of_them(run):
    text, facts = run("probes", "--probes", "4", "--sequences", "2", "--seeds", "2")
    assert [way["name"] for way in facts["ways"]] == ["uniform", "1", "4", "summed", "published"]
    assert all(run["zeros"] == pytest.approx(0.7, abs=1e-3) for way in facts["ways"] for run in way["runs"])
    assert [row["probes"] for row in facts["seeds"][0]["counts"]] == [1, 2, 4]
    assert facts["seeds"][0]["counts"] != facts["seeds"][1]["counts"]
    everything = next(way for way in facts["ways"] if way["name"] == "4")
    assert everything["above_all"]["mean"] == 0
    losses = {way["name"]: np.mean([run["above_dense"] for run in way["runs"]]) for way in facts["ways"]}
    for way in facts["ways"]:
        assert way["above_uniform"]["mean"] == pytest.approx(losses[way["name"]] - losses["uniform"])
    assert "**What limits the order**: two groups of 2 probes" in text


def test_shared_traces_give_the_allocations_that_recipes_give(run, workspace_root: Path):
    plain = recipe(PAPER_RECIPES, "sparsegpt")
    entries = [
        Entry(f"{normalise}-{count}", "", plain | {"allocation": by_probes(count, 2, 1, normalise)}, seed=1)
        for count, normalise in ((1, "mean"), (3, "mean"), (3, "sum"))
    ]
    overrides = ["@short.yaml"]
    shared = Bench(workspace_root, overrides, entries, partial(SharedTraces, probes=3, sequences=2))
    own = Bench(workspace_root, overrides, entries)
    decided = [load_shares(shared.pipeline(entry).allocation(entry.name)) for entry in entries]
    assert decided == [load_shares(own.pipeline(entry).allocation(entry.name)) for entry in entries]
    assert len({str(shares) for shares in decided}) == 3
    # Its own runs measured each number of probes; the shared one none of them.
    kinds = [json.loads(path.read_text())["kind"] for path in workspace_root.glob(".espalier/objects/*/manifest.json")]
    assert kinds.count("traces") == 1 and kinds.count("sensitivity") == 3


def test_fisher_and_hessian_are_compared_on_the_same_windows(run):
    text, facts = run("fisher-hessian", "--probes", "3", "--sequences", "4", "--seeds", "2")
    profiles = facts["profiles"]
    names = [*profiles["fisher"][0]]
    for pair in facts["pairs"]:
        for seed, correlation in enumerate(pair["rows"][EVERY]):
            one, other = ([profiles[pair[side]][seed][name] for name in names] for side in ("first", "second"))
            assert correlation == pytest.approx(spearmanr(one, other).statistic)
    assert {"q_proj", "down_proj", EVERY} <= {*facts["pairs"][0]["rows"]}
    assert [way["name"] for way in facts["ways"]] == ["uniform", "fisher", "fisher-sampled", "hutchinson"]
    assert profiles["fisher"][0] != profiles["fisher"][1] and profiles["fisher"] != profiles["fisher-sampled"]
    assert re.search(r"\*\*Fisher, the text's labels and Hutchinson's trace\*\*: rank correlation -?[01]\.", text)


def test_a_domain_is_another_calibration_text_and_the_same_judge(run, workspace_root: Path):
    other = workspace_root / "other words.txt"
    other.write_text(" ".join(sorted((workspace_root / "train.txt").read_text().split())))
    text, facts = run("domain", "--seeds", "1", "--file", str(other))
    names = ["own", "comments", "manual", "random", "file"]
    assert [one["name"] for one in facts["texts"]] == names
    assert len({one["draws"][0]["text_digest"] for one in facts["texts"]}) == 5
    for method in facts["methods"]:
        perplexities = {one["text"]: one["runs"][0]["perplexity"] for one in method["texts"]}
        assert [*perplexities] == names
        assert perplexities["own"] == plain_perplexity(workspace_root, method["name"], 0)
        given = f"calibration.text={{name: file, path: '{other}'}}"
        assert perplexities["file"] == plain_perplexity(workspace_root, method["name"], 0, given)
    assert facts["without"]["runs"][0]["perplexity"] == plain_perplexity(workspace_root, "magnitude", None)
    assert "| other words.txt |" in text
    # The name of the caller's file is told, where it lies is not.
    assert str(other) not in text and str(other) not in json.dumps(facts)


def test_a_text_that_is_not_there_is_told(run):
    with pytest.raises(InputError, match=r"cannot read .*absent.txt"):
        run("domain", "--seeds", "1", "--file", "absent.txt")
