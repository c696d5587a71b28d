"""The speed benchmark: its count of operations, its loops against this project's, and a whole run at toy size."""

import ast
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from typer.testing import CliRunner

from benchmarks.common.floor import Work, minimum_work, multiplication_rate
from benchmarks.common.launch import Launcher
from benchmarks.common.published import SecondMoment
from benchmarks.common.summary import Spread, ratio, sustained_rate
from benchmarks.speed import llmcompressor_environment
from benchmarks.speed.__main__ import app
from benchmarks.speed.damage import compressed_weights, qualities
from benchmarks.speed.rounds import Contest
from benchmarks.speed.settings import QUICK, SETTINGS, Setting
from benchmarks.speed.workloads import Workload, random_workload, shipped_workload
from pruning_core.calibration.collect import collect
from pruning_core.calibration.hidden_states import HiddenStates
from pruning_core.checkpoint.model_files import read_config
from pruning_core.errors import ComputationError, InputError
from pruning_core.model.decoder import Decoder

BENCHMARKS = Path(llmcompressor_environment.__file__).parent
WANDA = next(setting for setting in SETTINGS if setting.name == "wanda-50")
each_setting = pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)


def contest(workload: Workload, folder: Path, peer: Path | None = None) -> Contest:
    """Everything but llm-compressor in this process, on one thread."""
    return Contest(Launcher(folder, 1, False, peer), QUICK, workload, None, folder, lambda text: None)


def compressed_by(entry: Contest, contestant: str, setting: Setting, **changes: str) -> dict[str, Tensor]:
    """The matrices that a contestant wrote."""
    entry.launcher.run(entry.job(contestant, setting, entry.workload) | changes)
    return compressed_weights(entry.out(contestant, setting.name))


def counted(model: nn.Module, tokens: Tensor, needs: str) -> Work:
    """The minimum, counted one token, one column and one inner product at a time."""
    sequences, length = tokens.shape
    shapes: dict[str, tuple[int, int]] = {}
    inputs: list[Tensor] = []

    def watch(name: str):
        def hook(module: nn.Linear, args: tuple[Tensor, ...]) -> None:
            shapes[name] = tuple(module.weight.shape)
            if not any(args[0] is seen for seen in inputs):
                inputs.append(args[0])

        return hook

    for name, module in model.model.layers.named_modules():
        if isinstance(module, nn.Linear):
            module.register_forward_pre_hook(watch(name))
    with torch.no_grad():
        model(input_ids=tokens)
    widths = [inp.shape[-1] for inp in inputs]
    queries = [rows for name, (rows, _) in shapes.items() if name.endswith("q_proj")]
    # Entry (i, j) of the Cholesky factor takes an inner product of length j, of its inverse one of length i - j.
    factors = sum(2 * min(j, c) + 2 * (i - j) for c in widths for i in range(c) for j in range(i + 1))
    moments = sum(2 for c in widths for i in range(c) for _ in range(i + 1)) * tokens.numel()
    sweep = sum(r + 2 * r * (c - 1 - j) for r, c in shapes.values() for j in range(c))
    full = needs == "full"
    return Work(
        products=sum(2 * r * c for r, c in shapes.values()) * tokens.numel(),
        attention=sum(4 * width * position for width in queries for position in range(1, length + 1)) * sequences,
        statistics=moments if full else sum(2 * c for c in widths) * tokens.numel(),
        factors=factors if full else 0.0,
        sweep=sweep if full else 0.0,
    )


@pytest.mark.parametrize("needs", ["full", "diagonal"])
def test_the_floor_is_what_a_walk_over_the_layers_counts(tiny_llama, needs: str):
    model = tiny_llama(hidden_size=64, intermediate_size=96)
    floor = minimum_work(model.config, 3, 10, needs)
    slow = counted(model, torch.zeros(3, 10, dtype=torch.int64), needs)
    assert replace(floor, factors=0.0) == replace(slow, factors=0.0)
    # The floor has the leading term of the factors only.
    assert floor.factors == pytest.approx(slow.factors, rel=0.05)


def test_the_rate_of_products_is_given_per_shape():
    rates = multiplication_rate([(8, 4, 6), (5, 3, 2)], 0.0)
    assert list(rates) == ["8x4x6", "5x3x2"]
    assert all(rate > 0 for rate in rates.values())


def test_the_published_hessian_is_twice_the_mean_over_sequences():
    inputs = torch.randn(5, 7, 6, generator=torch.Generator().manual_seed(0))
    moment = SecondMoment(6, full=True)
    for sequence in inputs:
        moment.add(sequence[None])
    expected = 2 / 5 * sum(sequence.double().T @ sequence.double() for sequence in inputs)
    torch.testing.assert_close(moment.value.double(), expected, rtol=1e-5, atol=1e-5)


def first_block_losses(workload: Workload, weights: dict[str, Tensor]) -> dict[str, float]:
    """Name -> tr(D H D^T) of the layers of block 0, H of the dense block."""
    decoder = Decoder(workload.model, read_config(workload.model))
    states = HiddenStates.at_entry(decoder, load_file(workload.tokens)["tokens"], 4)
    decoder.load_block(0)
    dense = {name: module.weight.clone() for name, module in decoder.linears(0).items()}
    losses = {}
    for group, statistics in collect(decoder, 0, states):
        for name in group.names:
            change = (weights[f"{name}.weight"].float() - dense[name]).double()
            losses[name] = float((change @ statistics.hessian().double() * change).sum())
    return losses


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Workload:
    """The shipped model with few and short windows; tokenizing its text takes the time."""
    scale = replace(QUICK, shipped_sequences=16, shipped_length=128, evaluation_windows=8)
    return shipped_workload(tmp_path_factory.mktemp("shipped"), scale)


@each_setting
def test_the_published_loops_agree_with_this_project_in_their_order_of_work(
    setting: Setting, shipped: Workload, tmp_path: Path
):
    entry = contest(shipped, tmp_path)
    theirs = compressed_by(entry, "published", setting)
    ours = compressed_by(entry, "espalier", setting, propagate="blockwise")
    assert theirs.keys() == ours.keys()
    assert first_block_losses(shipped, theirs) == pytest.approx(first_block_losses(shipped, ours), rel=0.01)
    folders = {name: entry.out(name, setting.name) for name in ("published", "espalier")}
    judged = qualities(shipped, folders, {"published": "espalier"})
    dense, (other, error) = judged["published"]["to_dense"][0], judged["published"]["to_reference"]
    # Rounding order, another on each processor, moves single weights to the next code: a difference like any noise.
    assert judged["espalier"]["to_dense"][0] == pytest.approx(dense, rel=0, abs=max(4 * error, 1e-12))
    assert dense - judged["espalier"]["to_dense"][0] == pytest.approx(other, abs=1e-12)


def test_llm_compressor_removes_the_weights_that_the_published_loop_removes(tmp_path: Path):
    if not (llmcompressor_environment.FOLDER / llmcompressor_environment.READY).is_file():
        pytest.skip("the environment of llm-compressor was not made; `make benchmark` makes it")
    peer = llmcompressor_environment.interpreter(llmcompressor_environment.FOLDER)
    entry = contest(random_workload(tmp_path, QUICK), tmp_path, peer)
    theirs, published = (compressed_by(entry, name, WANDA) for name in ("llmcompressor", "published"))
    assert theirs.keys() == published.keys()
    agreed = sum(int(((theirs[name] == 0) == (published[name] == 0)).sum()) for name in theirs)
    assert agreed > 0.999 * sum(weight.numel() for weight in theirs.values())


def test_a_quick_run_writes_a_page_whose_ratios_follow_from_its_figures(tmp_path: Path):
    target = tmp_path / "page.md"
    done = CliRunner().invoke(app, ["--quick", "--folder", str(tmp_path / "work"), "--out", str(target)])
    assert done.exit_code == 0, done.output
    text, raw = target.read_text(), json.loads(target.with_suffix(".json").read_text())
    assert text.index("## Ratios") < text.index("## Seconds") < text.index("## Quality")
    taken = {(record["contestant"], record["setting"]): record["seconds"] for record in raw["records"]}
    assert len(taken) == len(raw["records"]) == 1 + 3 * len(SETTINGS)
    for setting in SETTINGS:
        own = taken["espalier", setting.name]
        above_floor = own * sustained_rate(raw["rates"]) / raw["work"][setting.name]["total"]
        assert f"| {setting.title} | Espalier / floor | {above_floor:.2f} |" in text
        times = taken["published", setting.name] / own
        assert f"| {setting.title} | published loops / Espalier | {times:.2f} |" in text
    assert raw["quality"]["shipped"]["wanda-50 espalier"]["zeros"] == pytest.approx(0.5, abs=0.01)


def test_ratios_are_taken_within_a_round():
    assert ratio({0: 8.0, 1: 30.0, 2: 5.0}, {0: 2.0, 1: 10.0}) == Spread(3.5, 3.0, 4.0)
    assert ratio({}, {0: 1.0}) is None


def test_the_sustained_rate_is_the_median_of_the_best_shapes():
    assert sustained_rate([{"a": 3.0, "b": 1.0}, {"a": 1.0, "b": 9.0}, {"a": 4.0, "b": 2.0}]) == 4.0


def test_a_job_has_a_process_of_its_own(tmp_path: Path):
    result = Launcher(tmp_path, 1).run({"kind": "rate", "shapes": [[8, 4, 6]], "seconds": 0.0})
    assert result["rates"]["8x4x6"] > 0
    assert result["process"] > 0


def test_a_failed_job_says_why_and_where_its_output_is(tmp_path: Path):
    # Stands in for a Python: prints the script and the job, then fails for want of the result.
    launcher = Launcher(tmp_path, 1, peer=Path(shutil.which("cat")))
    with pytest.raises(ComputationError, match=r"llmcompressor failed: .*result\.json.*output\.txt"):
        launcher.run({"kind": "llmcompressor"})


def test_a_folder_without_python_is_no_environment(tmp_path: Path):
    with pytest.raises(InputError, match="no virtual environment"):
        llmcompressor_environment.interpreter(tmp_path)


def test_what_runs_in_the_other_environment_imports_nothing_of_this_project():
    tree = ast.parse((BENCHMARKS / "llmcompressor_runner.py").read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert "llmcompressor" in imported
    assert not {name.partition(".")[0] for name in imported} & {"benchmarks", "pruning_core", "tasks", "flows"}
