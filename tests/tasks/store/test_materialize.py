import hashlib
import os

import pytest

from pruning_core.errors import ComputationError, InputError
from tasks.store import store as store_module


def make(store, text="hello", key="k1"):
    def write(out):
        (out / "sub").mkdir()
        (out / "sub" / "a.txt").write_text(text)

    return store.get_or_compute("greet", key, {"params": {}}, write)


def content(directory):
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_a_copy_has_the_files_and_the_manifest_and_its_own_inodes(store, tmp_path):
    artifact = make(store)
    store.materialize(artifact, tmp_path / "models" / "v")
    expected = {"sub/a.txt": b"hello", "manifest.json": (artifact.path / "manifest.json").read_bytes()}
    assert content(tmp_path / "models" / "v") == expected
    copy, original = (root / "sub" / "a.txt" for root in (tmp_path / "models" / "v", artifact.path))
    assert copy.stat().st_ino != original.stat().st_ino and os.access(copy, os.W_OK)


def test_an_equal_copy_is_left_alone_whoever_made_it(store, tmp_path):
    artifact, destination = make(store), tmp_path / "v"
    store.materialize(artifact, destination)
    before = (destination / "sub" / "a.txt").stat().st_ino
    store.materialize(artifact, destination)
    (store.root / "signatures").rename(store.root / "forgotten")
    store.materialize(artifact, destination)
    assert (destination / "sub" / "a.txt").stat().st_ino == before


def test_an_untouched_copy_is_not_read_again(store, tmp_path, monkeypatch):
    artifact, destination, hashed = make(store), tmp_path / "v", []
    store.materialize(artifact, destination)
    real = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda file, name: hashed.append(file.name) or real(file, name))
    store.materialize(artifact, destination)
    assert not any(name.endswith("a.txt") for name in hashed)


@pytest.mark.parametrize("text", ["HELLO", "longer than before"])
def test_an_altered_copy_is_replaced(store, tmp_path, text):
    artifact, destination = make(store), tmp_path / "v"
    store.materialize(artifact, destination)
    (destination / "sub" / "a.txt").write_text(text)
    (destination / "stray").write_text("x")
    store.materialize(artifact, destination)
    assert content(destination).keys() == {"sub/a.txt", "manifest.json"}
    assert content(destination)["sub/a.txt"] == b"hello"


def test_another_artifact_replaces_the_old_one_whole_and_leaves_nothing_beside_it(store, tmp_path):
    destination = tmp_path / "out" / "v"
    store.materialize(make(store), destination)
    store.materialize(make(store, "other", "k2"), destination)
    assert content(destination)["sub/a.txt"] == b"other"
    assert [path.name for path in destination.parent.iterdir()] == ["v"]


def test_a_kill_before_the_swap_leaves_the_old_content_and_the_next_call_cleans_up(store, tmp_path, monkeypatch):
    destination = tmp_path / "out" / "v"
    store.materialize(make(store), destination)

    def killed(new, old):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(store_module, "replace_directory", killed)
        with pytest.raises(KeyboardInterrupt):
            store.materialize(make(store, "other", "k2"), destination)
    assert content(destination)["sub/a.txt"] == b"hello"
    store.materialize(make(store, "other", "k2"), destination)
    assert content(destination)["sub/a.txt"] == b"other"
    assert [path.name for path in destination.parent.iterdir()] == ["v"]


def test_a_file_or_link_in_the_way_is_the_users_to_move(store, tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path)
    for name in ("file", "link"):
        with pytest.raises(InputError, match="move it away"):
            store.materialize(make(store), tmp_path / name)
    assert (tmp_path / "file").read_text() == "mine"


def test_an_artifact_altered_in_the_store_is_not_handed_out(store, tmp_path):
    artifact = make(store)
    (artifact.path / "sub" / "a.txt").chmod(0o644)
    (artifact.path / "sub" / "a.txt").write_text("HELLO")
    with pytest.raises(ComputationError, match="altered"):
        store.materialize(artifact, tmp_path / "v")
    assert not (tmp_path / "v").exists()
