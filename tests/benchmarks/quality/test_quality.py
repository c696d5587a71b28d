"""The results page: its groups, its words, its plot, and runs on a tiny model against figures worked out here."""

import json
import math
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from benchmarks.common.sections import put_section, sections
from benchmarks.quality.__main__ import app, drawing, lines, select_groups
from benchmarks.quality.entries import PAPERS, Entry, Group, groups
from benchmarks.quality.figures import Figures, Results
from benchmarks.quality.reading import choices, reading, verdict
from pruning_core.errors import InputError
from pruning_core.evaluation.paired import PairedDifference
from pruning_core.settings.recipe import parse_recipe
from tasks.report.charts import svg
from tasks.workspace.params import read_params

GROUPS = groups(read_params(PAPERS)["variants"])
ENTRIES = [entry for group in GROUPS for entry in group.entries]


def test_every_entry_is_a_recipe_and_one_name_is_one_variant():
    seen = {}
    for entry in ENTRIES:
        parse_recipe(entry.name, entry.recipe)
        made = (entry.recipe, entry.base, entry.seed)
        assert seen.setdefault(entry.name, made) == made
        assert entry.base is None or entry.base in {other.name for other in ENTRIES}
    assert all(group.reference in {entry.name for entry in group.entries} for group in GROUPS)


def test_the_methods_of_a_group_remove_equal_shares():
    for group in GROUPS:
        if group.name.startswith(("unstructured", "propagated", "drawn")):
            assert len({entry.recipe["sparsity"] for entry in group.entries}) == 1
            assert {entry.recipe["pattern"].get("rounding", "exact") for entry in group.entries} == {"exact"}
        if "of" in group.name:
            assert len({str(entry.recipe["pattern"]) for entry in group.entries}) == 1


def test_groups_are_chosen_by_how_their_name_begins():
    assert [group.name for group in select_groups(GROUPS, ["unstructured-5", "2of4"])] == ["unstructured-50", "2of4"]
    assert select_groups(GROUPS, None) == GROUPS
    with pytest.raises(InputError, match="no group begins with 'nm'; known: unstructured-50, "):
        select_groups(GROUPS, ["nm"])


@pytest.fixture
def run(short_workspace: Path):
    """run(*arguments) in a workspace with a tiny model; returns the page."""

    def command(*arguments: str) -> Path:
        given = ["--settings", "short.yaml", "--out", "pages/results.md", *arguments]
        done = CliRunner().invoke(app, given, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return short_workspace / "pages" / "results.md"

    return command


def losses(model: Path, tokens: torch.Tensor) -> torch.Tensor:
    """Mean cross entropy of each window, with nothing of this project."""
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    with torch.no_grad():
        logs = network(input_ids=tokens).logits[:, :-1].double().log_softmax(dim=-1)
    return -logs.gather(2, tokens[:, 1:, None]).squeeze(2).mean(dim=1)


def stored(root: Path, kind: str, matches) -> Path:
    """The folder of the one artifact of a kind whose manifest matches."""
    folders = [
        path.parent
        for path in (root / ".espalier" / "objects").glob("*/manifest.json")
        if (manifest := json.loads(path.read_text()))["kind"] == kind and matches(manifest)
    ]
    assert len(folders) == 1
    return folders[0]


def cells(text: str, title: str) -> list[str]:
    """The first row of the page with that title."""
    line = next(line for line in text.splitlines() if line.startswith(f"| {title} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_table_has_the_figures_that_the_saved_models_give(run, workspace_root: Path):
    text = run("--only", "unstructured-50").read_text()
    tokens = load_file(stored(workspace_root, "tokens", lambda m: "windows" in m["params"]) / "tokens.safetensors")[
        "tokens"
    ]
    recipes = {entry.title: entry.recipe for entry in select_groups(GROUPS, ["unstructured-50"])[0].entries}
    models = {
        title: stored(workspace_root, "variant", lambda m, recipe=recipe: m["facts"]["recipe"] == recipe)
        for title, recipe in recipes.items()
    }
    dense = losses(workspace_root / "tiny", tokens)
    losses_of = {title: losses(model, tokens) for title, model in models.items()}
    best = min(losses_of, key=lambda title: float(losses_of[title].mean()))
    for title, model in models.items():
        _, shown, above_dense, above_reference, _, zeros, _, ledger = cells(text, title)
        assert ("**" in shown) == (title == best)
        assert float(re.sub("[*≈ ]", "", shown)) == pytest.approx(math.exp(losses_of[title].mean()), rel=1e-3)
        for cell, other in ((above_dense, dense), (above_reference, losses_of["SparseGPT"])):
            if title != "SparseGPT" or other is dense:
                difference = losses_of[title] - other
                mean, error = map(float, cell.split(" ± "))
                assert mean == pytest.approx(float(difference.mean()), abs=1.1e-4)
                assert error == pytest.approx(float(difference.std()) / len(difference) ** 0.5, abs=1.1e-4)
        weights = load_file(model / "model.safetensors")
        parts = [value for name, value in weights.items() if ".layers." in name and value.dim() == 2]
        share = sum(int((part == 0).sum()) for part in parts) / sum(part.numel() for part in parts)
        assert float(zeros.removesuffix(" %")) == pytest.approx(100 * share, abs=0.006)
        assert ledger == "-"
    assert float(cells(text, "dense")[1]) == pytest.approx(math.exp(dense.mean()), rel=1e-3)


def test_a_second_run_computes_nothing_and_writes_the_same_files(run, workspace_root: Path):
    page = run("--only", "joint")
    files = [page, page.with_suffix(".json")]
    before = [file.read_bytes() for file in files]
    objects = sorted(path.name for path in (workspace_root / ".espalier" / "objects").iterdir())
    run("--only", "joint")
    assert [file.read_bytes() for file in files] == before
    assert sorted(path.name for path in (workspace_root / ".espalier" / "objects").iterdir()) == objects
    assert not page.with_suffix(".svg").exists() and ".svg" not in page.read_text()
    # Paths that the user gave are shown, where the results lie is not.
    assert ".espalier" not in page.read_text()


def test_other_sections_of_the_page_are_left_alone(run, workspace_root: Path):
    page = workspace_root / "pages" / "results.md"
    put_section(page, "ladder-x", "Kept.")
    run("--only", "joint")
    texts = sections(page.read_text())
    assert [*texts] == ["methods", "ladder-x"] and texts["ladder-x"] == "Kept."
    assert "## 50 % unstructured and 4 bits" in texts["methods"]


def test_what_was_pruned_stays_pruned_when_it_is_quantized_afterwards(run, workspace_root: Path):
    figures = json.loads(run("--only", "joint").with_suffix(".json").read_text())["variants"]
    pruned, after = (
        stored(workspace_root, "variant", lambda m, name=name: m["facts"]["recipe"] == figures[name]["recipe"])
        for name in ("sparsegpt-50", "gptq-int4-on-zeros")
    )
    first, second = (load_file(path / "model.safetensors") for path in (pruned, after))
    names = [name for name in first if ".layers." in name and first[name].dim() == 2]
    assert all(not second[name][first[name] == 0].any() for name in names)
    assert figures["gptq-int4-on-zeros"]["zeros"] >= figures["sparsegpt-50"]["zeros"] == 0.5
    assert figures["gptq-int4-on-zeros"]["bits_per_weight"] < figures["sparsegpt-50"]["bits_per_weight"]


def test_other_draws_of_the_windows_are_other_models(run):
    figures = json.loads(run("--only", "drawn-50").with_suffix(".json").read_text())["variants"]
    drawn = [figures[f"sparsegpt-50-draw{seed}"]["mean_loss"] for seed in (0, 1, 2)]
    assert len(set(drawn)) == 3
    assert figures["isc-paper-50-draw1"]["recipe"] == figures["isc-paper-50-draw2"]["recipe"]


def results(**losses: list[float]) -> Results:
    """A group "unstructured-50" of methods with the given losses per window; the dense model has 1.0 everywhere."""

    def known(name: str, values: list[float], title: str = "") -> Figures:
        numbers = torch.tensor(values, dtype=torch.float64)
        return Figures(Entry(name, title or name, {}), numbers, float(numbers.mean().exp()), 0.1, 0.9, 0.5, 9.0, {})

    figures = {f"{name.replace('_', '-')}-50": known(name, values) for name, values in losses.items()}
    entries = tuple(figures[name].entry for name in figures)
    entries = tuple(Entry(name, entry.title, {}) for name, entry in zip(figures, entries, strict=True))
    group = Group("unstructured-50", "50 % unstructured", next(iter(figures)), entries)
    return Results(known("dense", [1.0] * 4, "dense"), [group], figures, {})


def test_the_reading_tells_apart_what_the_windows_tell_apart():
    judged = results(sparsegpt=[1.2, 1.4, 1.1, 1.3], wanda=[1.3, 1.5, 1.2, 1.41], magnitude=[1.3, 1.3, 1.2, 1.21])
    first = reading(judged)[0]
    assert first == (
        "**50 % unstructured**: the lowest loss is that of sparsegpt, not to be told apart from magnitude "
        "(+0.0025 ± 0.0563); above it wanda (+0.1025 ± 0.0025)."
    )


def test_a_choice_is_judged_by_its_paired_difference():
    [row] = choices(results(wanda_squared=[1.1, 1.3, 1.0], wanda=[1.3, 1.5, 1.2], sparsegpt=[1.0, 1.0, 1.0]))
    assert row[1].startswith("-0.2000") and row[2] == "better"
    assert verdict(PairedDifference(0.02, 0.005, 9)) == "worse"
    assert verdict(PairedDifference(-0.009, 0.005, 9)) == "no certain difference"
    # A single window tells nothing apart.
    assert verdict(PairedDifference(0.5, None, 1)) == "no certain difference"


def test_the_ledger_is_told_on_the_page():
    judged = results(sparsegpt=[1.2, 1.4], wanda=[1.3, 1.5])
    assert reading(judged)[-1] == "**Ledger**: no dead column, no retry and no fallback in any variant."
    figures = {
        name: Figures(one.entry, one.losses, 3.0, 0.1, 0.9, 0.5, 9.0, {"damping_raised": 2} if "wanda" in name else {})
        for name, one in judged.figures.items()
    }
    noted = Results(judged.dense, judged.groups, figures, {})
    assert reading(noted)[-1] == "**Ledger**: `damping_raised` in 1 of 2 variants."


def test_the_plot_puts_points_by_share_and_by_the_logarithm_of_the_value():
    points = {"a": [(0.5, 10.0), (0.6, 100.0), (0.7, 1000.0)], "b<": [(0.5, 20.0)]}
    figure = drawing(points, 5.0)
    [axes] = figure.axes
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert names == [*points]
    drawn = {line.get_label(): line for line in axes.get_lines()}
    assert {name: [*map(tuple, drawn[name].get_xydata())] for name in names} == points
    (x0, y0), (x1, y1), (x2, y2) = axes.transData.transform(points["a"])
    assert x1 - x0 == pytest.approx(x2 - x1)
    # One power of ten is one length, upwards.
    assert y1 - y0 == pytest.approx(y2 - y1) and y1 > y0
    texts = set(re.findall("<text[^>]*>([^<]*)</text>", svg(figure)))
    assert {"50 %", "70 %", "100", "dense 5", "b&lt;"} <= texts


def test_nothing_to_draw_is_no_line():
    figures = {"magnitude-50": Figures(Entry("a", "magnitude", {}), torch.ones(2), None, 0, 1, 0.5, 9.0, {})}
    group = Group("unstructured-50", "", "magnitude-50", (Entry("magnitude-50", "magnitude", {}),))
    assert lines(Results(results(sparsegpt=[1.0]).dense, [group], figures, {})) == {}
