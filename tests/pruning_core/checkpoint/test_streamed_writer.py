"""Writes that were interrupted: the next one goes on with the shard they were in, and gives the same bytes."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pruning_core.checkpoint.checkpoint import Checkpoint
from pruning_core.checkpoint.layer_facts import LayerFacts
from pruning_core.checkpoint.shard_files import ShardFiles
from pruning_core.checkpoint.sharded_writer import ShardedWriter
from pruning_core.checkpoint.stored_model import StoredModel
from pruning_core.checkpoint.streamed_writer import write_streamed
from pruning_core.errors import InputError
from pruning_core.export import FORMATS
from pruning_core.progress import ignore_progress
from pruning_core.sparse_container.reader import SparseContainer

SHARD = 3000
INDICES = {"safetensors": "model.safetensors.index.json", "sparse": "sparse_container.json"}


class Stopped(BaseException):
    """As a person's Ctrl-C."""


class Watched(StoredModel):
    """A model that tells which tensors were loaded, and stops at one."""

    loaded: list[str]
    stop: str | None = None

    def load(self, name: str) -> torch.Tensor:
        if name == self.stop:
            raise Stopped
        self.loaded.append(name)
        return super().load(name)


@pytest.fixture
def model(half_empty_directory: Path) -> Watched:
    """One matrix is half zeros; its codes are said to exist, but in a layout that no code has: a fallback."""
    name = "model.layers.0.mlp.up_proj"
    columns, rows = Checkpoint(half_empty_directory).shape(f"{name}.weight")
    layer = LayerFacts(name, f"{name}.weight", rows, columns, removed=rows * columns // 2, bits=4, groups=1)
    made = Watched(half_empty_directory, [layer])
    made.loaded = []
    return made


def contents(directory: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in directory.iterdir()}


def homes(name: str, directory: Path) -> dict[str, str]:
    """Tensor -> its shard, from the index of a finished write."""
    index = json.loads((directory / INDICES[name]).read_text())
    return index.get("weight_map") or {tensor: entry["file"] for tensor, entry in index["tensors"].items()}


@pytest.mark.parametrize("name", INDICES)
def test_stopped_at_any_tensor_a_write_goes_on_with_the_shard_it_was_in_and_gives_the_same_bytes(model, tmp_path, name):
    made = FORMATS.build({"name": name, "max_shard_bytes": SHARD})
    told = made.write(model, tmp_path / "whole", ignore_progress)
    wanted, home, names = contents(tmp_path / "whole"), homes(name, tmp_path / "whole"), model.names()
    assert len(set(home.values())) > 3 and told.get("fallbacks", [True])
    for number, stop in enumerate(names):
        out, model.stop = tmp_path / stop, stop
        with pytest.raises(Stopped):
            made.write(model, out, ignore_progress)
        assert all(file.name.startswith(".") for file in out.iterdir())
        # The shard with the tensor before it was being filled.
        unfinished = home[names[number - 1]] if number else home[names[0]]
        model.stop, model.loaded = None, []
        assert made.write(model, out, ignore_progress) == told
        assert model.loaded == [one for one in names if home[one] >= unfinished]
        assert contents(out) == wanted


def test_a_write_may_be_stopped_again_and_again(model, tmp_path):
    made = FORMATS.build({"name": "sparse", "max_shard_bytes": SHARD})
    made.write(model, tmp_path / "whole", ignore_progress)
    for stop in model.names():
        model.stop = stop
        with pytest.raises(Stopped):
            made.write(model, tmp_path / "out", ignore_progress)
    model.stop = None
    made.write(model, tmp_path / "out", ignore_progress)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def unfinished(model: Watched, out: Path) -> list[Path]:
    """What a plain write leaves that was stopped at the last tensor: its shards."""
    model.stop = model.names()[-1]
    with pytest.raises(Stopped):
        FORMATS.build({"name": "safetensors", "max_shard_bytes": SHARD}).write(model, out, ignore_progress)
    model.stop, model.loaded = None, []
    shards = sorted(out.glob(".shard-0*"))
    assert len(shards) > 2
    return shards


@pytest.mark.parametrize("damage", [lambda file: file.write_bytes(file.read_bytes()[:-1]), Path.unlink])
def test_a_shard_that_is_not_whole_is_written_again_and_all_behind_it(model, tmp_path, damage):
    made = FORMATS.build({"name": "safetensors", "max_shard_bytes": SHARD})
    made.write(model, tmp_path / "whole", ignore_progress)
    shards = unfinished(model, tmp_path / "out")
    kept = list(load_file(shards[0]))
    damage(shards[1])
    made.write(model, tmp_path / "out", ignore_progress)
    assert sorted(model.loaded) == sorted(set(model.names()) - set(kept))
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.parametrize("name", INDICES)
def test_stopped_while_files_get_their_final_names_a_write_encodes_nothing_again(model, tmp_path, monkeypatch, name):
    made = FORMATS.build({"name": name, "max_shard_bytes": SHARD})
    made.write(model, tmp_path / "whole", ignore_progress)
    wanted = contents(tmp_path / "whole")
    replace = Path.replace
    for last in [file for file in wanted if file.endswith((".safetensors", ".json"))]:

        def stopping(file: Path, target: Path, last: str = last) -> Path:
            if target.name == last:
                raise Stopped
            return replace(file, target)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", stopping)
            with pytest.raises(Stopped):
                made.write(model, tmp_path / last, ignore_progress)
        model.loaded = []
        made.write(model, tmp_path / last, ignore_progress)
        assert model.loaded == [] and contents(tmp_path / last) == wanted


def test_what_a_write_of_another_model_left_is_refused(model, tmp_path):
    unfinished(model, tmp_path / "out")
    with pytest.raises(InputError, match="holds an unfinished write of another model"):
        write_streamed(["other"], ShardedWriter(tmp_path / "out", resume=True), lambda name: (), ignore_progress)


@pytest.mark.parametrize("name", INDICES)
def test_a_finished_write_is_never_gone_on_from(model, tmp_path, name):
    made = FORMATS.build({"name": name})
    made.write(model, tmp_path / "out", ignore_progress)
    before = contents(tmp_path / "out")
    with pytest.raises(InputError, match="already holds"):
        made.write(model, tmp_path / "out", ignore_progress)
    assert contents(tmp_path / "out") == before


def test_a_writer_that_does_not_resume_begins_anew(model, tmp_path):
    unfinished(model, tmp_path / "out")
    with ShardedWriter(tmp_path / "out") as writer:
        assert writer.names() == []
        writer.add("a", torch.ones(1))
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["model.safetensors"]


def test_what_stands_for_one_tensor_lies_in_one_shard_and_is_gone_on_from_as_one(tmp_path):
    parts = {"packed": torch.arange(6), "scale": torch.ones(3)}

    def fill(stop: str | None) -> ShardedWriter:
        def make(name: str):
            if name == stop:
                raise Stopped
            return {f"{name}.{part}": value for part, value in parts.items()}, {"of": name}

        writer = ShardedWriter(tmp_path, max_shard_bytes=100, resume=True)
        write_streamed(["a", "b", "c"], writer, make, ignore_progress)
        return writer

    with pytest.raises(Stopped):
        fill("c")
    assert fill(None).notes() == {name: {"of": name} for name in "abc"}
    checkpoint = Checkpoint(tmp_path)
    assert checkpoint.names() == [f"{name}.{part}" for name in "abc" for part in parts]
    assert [set(load_file(file)) for file in checkpoint.files] == [
        {f"{name}.packed", f"{name}.scale"} for name in "abc"
    ]


def test_a_shard_counts_only_once_it_is_on_the_disk(tmp_path, monkeypatch):
    durable = []
    monkeypatch.setattr("pruning_core.checkpoint.shard_files.flush_one", lambda file: durable.append(file.read_bytes()))
    shards = ShardFiles(tmp_path, "model", "index", max_shard_bytes=4, resume=True)
    for key in "ab":
        shards.add(key, {key: torch.zeros(1)})
    (finished,) = tmp_path.glob(".shard-0*")
    (groups,) = tmp_path.glob("*groups*")
    assert durable == [finished.read_bytes(), groups.read_bytes()]


def test_the_container_of_an_interrupted_write_gives_every_weight_back(model, tmp_path):
    made = FORMATS.build({"name": "sparse", "max_shard_bytes": SHARD})
    model.stop = model.names()[5]
    with pytest.raises(Stopped):
        made.write(model, tmp_path / "out", ignore_progress)
    model.stop = None
    made.write(model, tmp_path / "out", ignore_progress)
    container = SparseContainer(tmp_path / "out")
    assert all(container.load(name).equal(model.load(name)) for name in model.names())
    assert container.names() == model.names()
