"""Exports that are killed: the next run goes on with the shard or tensor they were in, and stores the same artifact."""

import contextlib
import json
import signal
from pathlib import Path

import pytest
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers

from pruning_core.checkpoint import appended_file, shard_files
from pruning_core.checkpoint.stored_model import StoredModel
from pruning_core.errors import ComputationError
from tasks.engine.step import Context
from tasks.steps import export as export_module
from tasks.steps.export import export
from tasks.store.artifact import Artifact
from tasks.store.store import Store

pytestmark = pytest.mark.slow

FORMATS = ("safetensors", "sparse")
SHARD = 6000
SPECS = {name: {"name": name, "max_shard_bytes": SHARD} for name in FORMATS} | {"gguf": {"name": "gguf"}}


class Killed(BaseException):
    """Nothing runs behind it."""


@pytest.fixture
def source(half_empty_directory: Path) -> Artifact:
    """A dense model with a half empty matrix, and a tokenizer that every format can hold."""
    letters = Tokenizer(models.BPE({letter: index for index, letter in enumerate("abcdefgh")}, []))
    letters.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    letters.save(str(half_empty_directory / "tokenizer.json"))
    return Artifact("source", "0" * 64, "0" * 64, half_empty_directory)


def exported(root: Path, source: Artifact, name: str) -> Artifact:
    return Context(Store(root), root).run(export, {"format": SPECS[name]}, {"model": source})


def contents(artifact: Artifact) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in artifact.path.iterdir() if file.name != "run.json"}


class Death:
    """Kills the step when it is about to touch its scratch for the nth time, and lets a dead step touch nothing."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, turn: int) -> None:
        self._left, self.dead = turn, False
        for name in ("replace", "unlink"):
            monkeypatch.setattr(Path, name, self._dying(getattr(Path, name)))
        monkeypatch.setattr(Path, "write_text", self._torn(Path.write_text))
        monkeypatch.setattr(shard_files, "write_file", self._torn(shard_files.write_file))
        monkeypatch.setattr(appended_file, "_append", self._torn(appended_file._append))

    def due(self, path: Path) -> bool:
        if "scratch" in path.parts:
            self._left -= 1
            self.dead = self.dead or self._left < 0
        return self.dead and "scratch" in path.parts

    def _dying(self, method):
        def touch(path, *arguments, **options):
            if self.due(path):
                raise Killed
            return method(path, *arguments, **options)

        return touch

    def _torn(self, write):
        def half(path, content, **options):
            if self.due(path):
                if not self._left + 1:
                    write(path, content, **options)
                    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
                raise Killed
            return write(path, content, **options)

        return half


@pytest.mark.parametrize("name", SPECS)
def test_killed_at_any_change_of_its_files_an_export_ends_as_one_that_was_not(source, tmp_path, monkeypatch, name):
    whole = exported(tmp_path / "whole", source, name)
    turns = 0
    while True:
        root = tmp_path / str(turns)
        with monkeypatch.context() as patch:
            death = Death(patch, turns)
            with contextlib.suppress(Killed):
                exported(root, source, name)
        if not death.dead:
            break
        again = exported(root, source, name)
        assert not again.hit and contents(again) == contents(whole)
        assert not list((root / "scratch").iterdir())
        turns += 1
    # Each shard and its notes are written, made durable and renamed; all get their final names. Of the one file each
    # tensor and its line are written.
    units = 2 * len(StoredModel(source.path).names()) if name == "gguf" else 5 * len(list(whole.path.glob("*-of-*")))
    assert turns > units > 0


def killed(*arguments: object) -> None:
    raise Killed


def killed_in(function: str, root: Path, source: Artifact, name: str) -> None:
    """An export that dies when it calls that function of its module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export_module, function, killed)
        with pytest.raises(Killed):
            exported(root, source, name)


def test_an_export_that_was_killed_behind_the_move_is_made_again(source, tmp_path):
    killed_in("weight_bytes", tmp_path / "store", source, "sparse")
    again = exported(tmp_path / "store", source, "sparse")
    assert contents(again) == contents(exported(tmp_path / "whole", source, "sparse"))


def test_a_run_killed_while_it_verified_writes_nothing_again(source, tmp_path, monkeypatch):
    killed_in("verify", tmp_path / "store", source, "sparse")
    monkeypatch.setattr(shard_files, "write_file", killed)
    stored = exported(tmp_path / "store", source, "sparse")
    assert stored.facts["verified"]["equal"] == stored.facts["verified"]["tensors"]


KILLED = """
import os, signal, sys
from pathlib import Path
from pruning_core.checkpoint.stored_model import StoredModel
from tasks.store.artifact import Artifact
from tasks.steps.export import export
from tasks.engine.step import Context
from tasks.store.store import Store

root, source, name, size = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
load = StoredModel.load

def until_two_shards(self, name):
    if len(list(root.glob("scratch/*/export/.shard-0*.partial"))) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return load(self, name)

StoredModel.load = until_two_shards
spec = {"name": name, "max_shard_bytes": size}
Context(Store(root), root).run(export, {"format": spec}, {"model": Artifact("source", "0" * 64, "0" * 64, source)})
"""


def identity(file: Path) -> tuple[int, int]:
    return file.stat().st_ino, file.stat().st_mtime_ns


@pytest.mark.parametrize("name", FORMATS)
def test_after_kill_9_finished_shards_are_kept_as_they_are(start, source, tmp_path, monkeypatch, name):
    root = tmp_path / "store"
    child = start(KILLED, root, source.path, name, SHARD)
    assert child.wait(timeout=120) == -signal.SIGKILL, child.stderr.read()
    finished = [identity(file) for file in sorted(root.glob("scratch/*/export/.shard-0*"))]
    assert len(finished) == 2

    loaded, load = [], StoredModel.load
    monkeypatch.setattr(StoredModel, "load", lambda self, tensor: loaded.append(tensor) or load(self, tensor))
    again = exported(root, source, name)
    shards = sorted(again.path.glob("*-of-*"))
    assert [identity(file) for file in shards[:2]] == finished and len(shards) > 2
    held = {tensor.partition("/")[0] for file in shards[:2] for tensor in load_file(file)}
    # Those of the finished shards are read once, when the export is verified.
    assert {tensor: loaded.count(tensor) for tensor in set(loaded)} == {
        tensor: 1 if tensor in held else 2 for tensor in StoredModel(source.path).names()
    }
    assert contents(again) == contents(exported(tmp_path / "whole", source, name))


KILLED_IN_TENSOR = """
import os, signal, sys
from pathlib import Path
from pruning_core.checkpoint import appended_file
from tasks.store.artifact import Artifact
from tasks.steps.export import export
from tasks.engine.step import Context
from tasks.store.store import Store

root, source, writes = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
append = appended_file._append

def dying(path, content):
    global writes
    writes -= 1
    append(path, content if writes >= 0 else content[: len(content) // 2])
    if writes < 0:
        os.kill(os.getpid(), signal.SIGKILL)

appended_file._append = dying
model = Artifact("source", "0" * 64, "0" * 64, source)
Context(Store(root), root).run(export, {"format": {"name": "gguf"}}, {"model": model})
"""


def test_after_kill_9_finished_tensors_of_a_single_file_are_kept_as_they_are(start, source, tmp_path, monkeypatch):
    root, names, held = tmp_path / "store", StoredModel(source.path).names(), 9
    # The head and the first line of the journal, and two writes for each tensor, came before the one that is torn.
    child = start(KILLED_IN_TENSOR, root, source.path, 2 + 2 * held)
    assert child.wait(timeout=120) == -signal.SIGKILL, child.stderr.read()
    (place,) = root.glob("scratch/*/export")
    assert not (place / "model.gguf").exists() and (place / ".model.gguf.partial").is_file()

    loaded, load = [], StoredModel.load
    monkeypatch.setattr(StoredModel, "load", lambda self, tensor: loaded.append(tensor) or load(self, tensor))
    again = exported(root, source, "gguf")
    # Those that were finished are read once, when the export is verified.
    assert {name: loaded.count(name) for name in set(loaded)} == {
        name: 1 if name in names[:held] else 2 for name in names
    }
    assert contents(again) == contents(exported(tmp_path / "whole", source, "gguf"))


def test_an_export_that_came_out_wrong_is_nothing_to_go_on_from(source, tmp_path):
    killed_in("verify", tmp_path / "store", source, "safetensors")
    shard = min((tmp_path / "store").glob("scratch/*/export/model-*"))
    altered = bytearray(shard.read_bytes())
    altered[-1] ^= 1
    shard.write_bytes(altered)
    with pytest.raises(ComputationError, match="does not come back bit for bit"):
        exported(tmp_path / "store", source, "safetensors")
    again = exported(tmp_path / "store", source, "safetensors")
    assert contents(again) == contents(exported(tmp_path / "whole", source, "safetensors"))
    assert json.loads((again.path / "model.safetensors.index.json").read_text())["metadata"]["total_size"] > 3 * SHARD
