"""The training loop: schedules, the order of windows, kills at any step, losses that are no numbers."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from trainable_models import EVERY, LONGER, SHORT, recover, trainable_model, weights

from pruning_core.errors import ComputationError, InputError
from pruning_core.recovery import RECOVERIES

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[4]


class Killed(Exception):
    """Stands for a kill at a step boundary."""


def training(**settings):
    return RECOVERIES.build({"name": "sparse_finetune", **settings})


def test_the_rate_rises_in_a_line_and_falls_as_a_cosine():
    method = training(learning_rate=0.8, warmup=0.2)
    rates = [method.rate(step, 10) for step in range(10)]
    assert rates[:2] == [0.4, 0.8]
    expected = [0.4 * (1 + math.cos(math.pi * part / 8)) for part in range(8)]
    assert rates[2:] == pytest.approx(expected)


def test_the_rate_falls_in_a_line_where_that_is_asked():
    method = training(learning_rate=1.0, warmup=0, schedule="linear")
    assert [method.rate(step, 4) for step in range(4)] == [1.0, 0.75, 0.5, 0.25]


def test_epochs_become_steps_and_defaults_are_each_methods_own():
    assert training(epochs=2.5, batch=4).total(10) == 7
    assert training(batch=4).total(10) == 3
    assert RECOVERIES.build({"name": "lora", "batch": 4, "warmup": 0}).total(10) == 5
    assert RECOVERIES.build({"name": "block_reconstruction"}).total(10) == 200


def test_every_epoch_sees_every_window_once_in_an_order_of_its_own():
    method = training(batch=4, seed=5)
    seen = torch.cat([method.rows(step, 10) for step in range(5)]).tolist()
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
    assert seen[:10] != seen[10:] and seen[:10] != list(range(10))
    other = torch.cat([training(batch=4, seed=6).rows(step, 10) for step in range(5)]).tolist()
    assert other != seen


def test_windows_in_smaller_forwards_give_the_same_steps(tiny_directory: Path, tmp_path: Path):
    whole, _ = recover(tiny_directory, tmp_path / "a", EVERY["sparse_finetune"] | SHORT)
    parts, _ = recover(tiny_directory, tmp_path / "b", EVERY["sparse_finetune"] | SHORT | {"micro_batch": 3})
    for name, value in weights(whole).items():
        torch.testing.assert_close(weights(parts)[name], value, rtol=0, atol=1e-4)


def test_the_curve_has_the_mean_loss_of_the_steps_between_its_points(tiny_directory: Path, tmp_path: Path):
    spec = EVERY["sparse_finetune"] | SHORT
    _, every = recover(tiny_directory, tmp_path / "a", spec | {"validate_every": 1})
    _, some = recover(tiny_directory, tmp_path / "b", spec | {"validate_every": 4})
    fine = {point["step"]: point for point in every.curves["model"]}
    assert [point["step"] for point in some.curves["model"]] == [0, 4, 6]
    for point, since in zip(some.curves["model"][1:], (1, 5), strict=True):
        steps = range(since, point["step"] + 1)
        assert point["train_loss"] == pytest.approx(sum(fine[step]["train_loss"] for step in steps) / len(steps))
        assert point["validation_loss"] == fine[point["step"]]["validation_loss"]
    assert some.curves["model"][0]["train_loss"] is None


@pytest.mark.parametrize("stop", [1, 2, 3, 5])
@pytest.mark.parametrize("name", EVERY)
def test_a_run_that_was_cut_off_ends_in_the_same_bits(tiny_directory: Path, tmp_path: Path, name: str, stop: int):
    spec = EVERY[name] | SHORT | {"keep": "best" if name in ("sparse_finetune", "lora") else "last"}
    expected, whole = recover(tiny_directory, tmp_path / "whole", spec)

    def cut(done: int, total: int) -> None:
        if done >= stop:
            raise Killed

    with pytest.raises(Killed):
        recover(tiny_directory, tmp_path / "cut", spec, progress=cut)
    torch.rand(3)  # the caller's generator has no say
    resumed, done = recover(tiny_directory, tmp_path / "cut", spec)
    assert done.curves == whole.curves
    for parameter, value in weights(expected).items():
        assert torch.equal(weights(resumed)[parameter], value)


def test_the_callers_generator_goes_on_as_if_nothing_was(tiny_directory: Path, tmp_path: Path):
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    recover(tiny_directory, tmp_path / "run", EVERY["lora"] | SHORT)
    assert torch.equal(torch.rand(4), expected)


def test_the_cadence_of_checkpoints_changes_no_bit(tiny_directory: Path, tmp_path: Path):
    often, _ = recover(tiny_directory, tmp_path / "a", EVERY["lora"] | SHORT, checkpoint_every=1)
    never, _ = recover(tiny_directory, tmp_path / "b", EVERY["lora"] | SHORT, checkpoint_every=100)
    for name, value in weights(often).items():
        assert torch.equal(weights(never)[name], value)


RUN = """
import sys
from pathlib import Path
from trainable_models import LONGER, recover

def tell(done, total):
    print(done, flush=True)

recover(Path(sys.argv[1]), Path(sys.argv[2]), LONGER, checkpoint_every=1, progress=tell)
"""


def test_a_process_killed_with_signal_9_goes_on_to_the_same_bits(tiny_directory: Path, tmp_path: Path):
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "helpers")])
    killed, seen = tmp_path / "killed", []
    for step in (5, 23):
        command = [sys.executable, "-c", RUN, str(tiny_directory), str(killed)]
        environment = {**os.environ, "PYTHONPATH": paths}
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        while (line := process.stdout.readline()) and int(line) < step:
            pass
        # Somewhere inside the next step, or the writing of its checkpoint.
        time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        seen.append(json.loads((max(killed.glob("step-*")) / "state.json").read_text())["step"])
    assert 4 <= seen[0] < seen[1] < LONGER["steps"]
    told = []
    resumed, done = recover(tiny_directory, killed, LONGER, progress=lambda step, total: told.append(step))
    assert told[0] == seen[1]
    expected, whole = recover(tiny_directory, tmp_path / "whole", LONGER)
    assert done.curves == whole.curves
    assert all(torch.equal(weights(resumed)[name], value) for name, value in weights(expected).items())


def test_a_checkpoint_is_whole_or_absent(tiny_directory: Path, tmp_path: Path, monkeypatch):
    """A kill between the tensors and the facts of a checkpoint leaves the one before it."""
    original, written = Path.write_text, []

    def write(path: Path, *args, **kwargs):
        if path.name == "state.json":
            written.append(path)
            if len(written) == 2:
                raise Killed
        return original(path, *args, **kwargs)

    monkeypatch.setattr(Path, "write_text", write)
    with pytest.raises(Killed):
        recover(tiny_directory, tmp_path / "run", EVERY["sparse_finetune"] | SHORT)
    monkeypatch.undo()
    assert [path.name for path in (tmp_path / "run").glob("step-*")] == ["step-00000002"]
    resumed, _ = recover(tiny_directory, tmp_path / "run", EVERY["sparse_finetune"] | SHORT)
    whole, _ = recover(tiny_directory, tmp_path / "whole", EVERY["sparse_finetune"] | SHORT)
    assert all(torch.equal(weights(resumed)[name], value) for name, value in weights(whole).items())


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_state(tiny_directory: Path, tmp_path: Path):
    spec = EVERY["sparse_finetune"] | SHORT | {"validate_every": 100, "clip": None}
    subject = trainable_model(tiny_directory, tmp_path / "run", checkpoint_every=1)
    method = RECOVERIES.build(spec)
    kept = {}

    def ruin(done: int, total: int) -> None:
        kept[done] = weights(subject)
        if done == 3:
            # After its checkpoint was written, so that the checkpoint of step 4 is the first one from a ruined model.
            with torch.no_grad():
                subject.decoder.model.get_input_embeddings().weight.fill_(math.nan)

    ruined = trainable_model(tiny_directory, tmp_path / "run", checkpoint_every=1, progress=ruin)
    object.__setattr__(ruined, "decoder", subject.decoder)
    with pytest.raises(
        ComputationError, match=r"the loss of step 4 is nan; lower learning_rate. The state after step 2"
    ):
        method.recover(ruined)
    names = sorted(path.name for path in (tmp_path / "run").glob("step-*"))
    assert names == ["step-00000002"]
    stored = load_file(tmp_path / "run" / "step-00000002" / "state.safetensors")
    for name, value in kept[2].items():
        assert torch.equal(stored[f"parameter.{name}"], value) and bool(value.isfinite().all())


def test_a_rate_that_is_far_too_high_is_told_as_such(tiny_directory: Path, tmp_path: Path):
    spec = EVERY["sparse_finetune"] | SHORT | {"learning_rate": 1e30, "clip": None}
    with pytest.raises(ComputationError, match=r"(is (nan|inf)|finite).*kept|checkpointed before"):
        recover(tiny_directory, tmp_path / "run", spec, checkpoint_every=1)


def test_checkpoints_of_other_settings_are_refused(tiny_directory: Path, tmp_path: Path):
    recover(tiny_directory, tmp_path / "run", EVERY["sparse_finetune"] | SHORT)
    with pytest.raises(InputError, match="is of a run with other settings"):
        recover(tiny_directory, tmp_path / "run", EVERY["sparse_finetune"] | SHORT | {"learning_rate": 0.02})


def test_a_finished_run_is_found_again_without_its_moments(tiny_directory: Path, tmp_path: Path):
    first, done = recover(tiny_directory, tmp_path / "run", EVERY["sparse_finetune"] | SHORT)
    told = []
    again, found = recover(
        tiny_directory, tmp_path / "run", EVERY["sparse_finetune"] | SHORT, progress=lambda *at: told.append(at)
    )
    assert told == [(6, 6)] and found.curves == done.curves
    assert all(torch.equal(weights(again)[name], value) for name, value in weights(first).items())
    assert not any("exp_avg" in name for name in load_file(max((tmp_path / "run").glob("*6")) / "state.safetensors"))
