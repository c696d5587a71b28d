import errno
import hashlib
import json
import os

import pytest
from safetensors import SafetensorError

from pruning_core.errors import ComputationError, InputError
from tasks.store.artifact import Artifact
from tasks.store.directories import signature
from tasks.store.store import Store

PROVENANCE = {"params": {"s": 0.5}, "inputs": {}, "source": "c0de", "versions": {"torch": "2"}}


class Work:
    """A computation that counts how often it ran."""

    def __init__(self, text="hello"):
        self.runs, self.text = 0, text

    def __call__(self, out):
        self.runs += 1
        (out / "sub").mkdir()
        (out / "sub" / "a.txt").write_text(self.text)
        return {"length": len(self.text)}


def make(store, work, key="k1", kind="greet"):
    return store.get_or_compute(kind, key, PROVENANCE, work)


def tamper(path, content):
    path.chmod(0o644)
    path.write_bytes(content)


def tree(store, folder):
    return sorted(path.name for path in (store.root / folder).glob("*"))


def test_the_second_request_finds_what_the_first_made(store):
    work = Work()
    first, second = make(store, work), make(store, work)
    assert work.runs == 1 and (first.hit, second.hit) == (False, True)
    assert (second.path / "sub" / "a.txt").read_text() == "hello"
    assert second.digest == first.digest and second.facts == {"length": 5}
    assert tree(store, "tmp") == []


def test_the_manifest_says_what_was_made_and_from_what(store):
    artifact = make(store, Work())
    sha = hashlib.sha256(b"hello").hexdigest()
    assert artifact.manifest == {
        **PROVENANCE,
        **{"kind": "greet", "key": "k1", "digest": artifact.digest, "facts": {"length": 5}},
        **{"files": {"sub/a.txt": sha}, "sizes": {"sub/a.txt": 5}},
    }
    text = '{"facts":{"length":5},"files":{"sub/a.txt":"%s"},"kind":"greet"}' % sha  # noqa: UP031 - braces
    assert artifact.digest == hashlib.sha256(text.encode()).hexdigest()
    run = json.loads((artifact.path / "run.json").read_text())
    assert run["pid"] == os.getpid() and run["seconds"] >= 0


def test_equal_content_from_different_keys_has_an_equal_digest(store):
    assert make(store, Work(), "k1").digest == make(store, Work(), "k2").digest
    assert make(store, Work("other"), "k3").digest != make(store, Work(), "k1").digest


def test_an_altered_file_of_the_same_size_is_set_aside_and_computed_again(store):
    work = Work()
    artifact = make(store, work)
    tamper(artifact.path / "sub" / "a.txt", b"HELLO")
    again = make(Store(store.root), work)
    assert work.runs == 2 and not again.hit
    assert (again.path / "sub" / "a.txt").read_text() == "hello"
    aside = store.root / "altered" / tree(store, "altered")[0]
    assert (aside / "sub" / "a.txt").read_text() == "HELLO"


def test_an_alteration_is_noted_with_the_file_and_where_it_went(store):
    artifact = make(store, Work())
    tamper(artifact.path / "sub" / "a.txt", b"HELLO")
    assert store.find("k1") is None
    [event] = store.events
    assert event["event"] == "altered" and event["key"] == "k1" and "sub/a.txt" in event["detail"]
    assert Store(store.root).events.of_all_processes() == [event]
    assert store.events.of_all_processes(since=event["time"] + "x") == []
    assert event["moved_to"] == str(store.root / "altered" / tree(store, "altered")[0])


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (lambda path: (path / "sub" / "a.txt").unlink(), "a.txt is missing"),
        (lambda path: (path / "b.txt").write_text("x"), "b.txt was added"),
        (lambda path: (path / "manifest.json").unlink(), "manifest.json is missing"),
        (lambda path: tamper(path / "manifest.json", b'{"kind":'), "not JSON"),
        (lambda path: tamper(path / "manifest.json", b"[]"), "manifest.json was changed"),
        (lambda path: (path / "link").symlink_to("/etc/hostname"), "plain file"),
    ],
)
def test_every_kind_of_damage_is_found_and_checking_moves_nothing(store, damage, word):
    damage(make(store, Work()).path)
    assert word in store.check("k1")[1]
    assert tree(store, "objects") == ["k1"]
    assert store.find("k1") is None
    assert tree(store, "objects") == []


def test_a_manifest_edited_where_no_signature_is_left_contradicts_itself(store):
    artifact = make(store, Work())
    tamper(artifact.path / "manifest.json", json.dumps({**artifact.manifest, "facts": {}}).encode())
    (store.root / "signatures" / "k1.json").unlink()
    assert "contradicts itself" in store.check("k1")[1]


def test_an_untouched_artifact_is_not_hashed_again_and_a_touched_one_is_once(store, monkeypatch):
    artifact, hashed = make(store, Work()), []
    real = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda file, name: hashed.append(file.name) or real(file, name))
    assert store.find("k1") and hashed == []
    os.utime(artifact.path / "sub" / "a.txt")
    assert store.find("k1") and any(name.endswith("a.txt") for name in hashed)
    hashed.clear()
    assert store.find("k1") and hashed == []


def test_what_changed_beneath_sizes_and_times_is_found_by_reading_everything(store):
    artifact = make(store, Work())
    tamper(artifact.path / "sub" / "a.txt", b"HELLO")
    # As if the disk had changed it: no size, time or inode differs from what is remembered.
    remembered = store.root / "signatures" / "k1.json"
    facts = json.loads(remembered.read_text())
    remembered.write_text(json.dumps(facts | {"stat": signature(artifact.path)}))
    assert store.check("k1")[0] and "a.txt was changed" in store.check("k1", thorough=True)[1]
    assert store.find("k1", thorough=True) is None and tree(store, "objects") == []


def test_a_store_that_was_moved_is_still_good(store, tmp_path):
    make(store, Work())
    store.root.rename(tmp_path / "moved")
    found = Store(tmp_path / "moved").find("k1")
    assert found.path == tmp_path / "moved" / "objects" / "k1"


@pytest.mark.parametrize("error", [RuntimeError("no"), KeyboardInterrupt(), SystemExit(3)])
def test_a_failed_computation_leaves_nothing_and_the_lock_is_free(store, error):
    def fail(out):
        (out / "half").write_text("x")
        raise error

    with pytest.raises(type(error)):
        make(store, fail)
    assert tree(store, "tmp") == [] and tree(store, "objects") == []
    assert make(store, Work()).facts == {"length": 5}


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_one_clear_sentence_and_leaves_nothing(store, error):
    def fail(out):
        raise error

    with pytest.raises(InputError, match="full; free some space"):
        make(store, fail)
    assert tree(store, "tmp") == []


def test_a_file_larger_than_the_limit_on_files_is_told_as_that(store):
    def fail(out):
        raise OSError(errno.EFBIG, "File too large")

    with pytest.raises(InputError, match=r"larger than the limit on file sizes \(ulimit -f\)"):
        make(store, fail)
    assert tree(store, "tmp") == []


def test_other_system_errors_are_not_called_a_full_disk(store):
    def fail(out):
        raise PermissionError(errno.EACCES, "no")

    with pytest.raises(PermissionError):
        make(store, fail)


@pytest.mark.parametrize("name", ["manifest.json", "run.json"])
def test_a_step_may_not_write_the_files_that_the_store_writes(store, name):
    with pytest.raises(ComputationError, match=name):
        make(store, lambda out: (out / name).write_text("{}") and None)


def test_facts_that_are_no_json_are_refused(store):
    with pytest.raises(InputError, match=r"facts\.loss"):
        make(store, lambda out: {"loss": float("nan")})
    assert tree(store, "objects") == []


@pytest.mark.parametrize("key", ["../x", "a/b", "", ".hidden", "a b"])
def test_a_key_cannot_point_out_of_the_store(store, key):
    with pytest.raises(InputError, match="letters, digits"):
        make(store, Work(), key)


def test_artifacts_lists_the_intact_ones(store):
    make(store, Work(), "b")
    make(store, Work(), "a")
    (make(store, Work(), "c").path / "sub" / "a.txt").unlink()
    assert [artifact.key for artifact in store.artifacts()] == ["a", "b"]


def test_a_reference_is_json_and_comes_back_as_the_same_artifact(store):
    artifact = make(store, Work())
    assert Artifact.from_reference(json.loads(json.dumps(artifact.reference()))) == artifact


def test_scratch_stays_until_it_is_discarded(store):
    (store.scratch("job") / "block-3").write_text("x")
    assert (Store(store.root).scratch("job") / "block-3").read_text() == "x"
    store.discard_scratch("job")
    assert list(store.scratch("job").iterdir()) == []
