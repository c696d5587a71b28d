"""`espalier verify` on what a variant is made of, some of it changed as a failing disk would change it."""

import json
import shutil
from pathlib import Path

import pytest
from tracked import make

from flows.actions.verify import print_verification, require_intact, verify_store
from pruning_core.errors import ComputationError
from tasks.store.directories import signature
from tasks.store.store import Store


@pytest.fixture(scope="module")
def made(make_workspace) -> Path:
    """A workspace with one variant."""
    root = make_workspace()
    make(root, "magnitude-50", tracked=False)
    return root


@pytest.fixture
def store(made: Path, tmp_path: Path, monkeypatch) -> Store:
    """That of a copy of it, which is the current folder."""
    monkeypatch.chdir(shutil.copytree(made, tmp_path / "workspace"))
    return Store(tmp_path / "workspace" / ".espalier")


def rot(store: Store, kind: str, name: str) -> str:
    """Change one bit of a file of this kind of artifact so that no size or time tells; the artifact's key."""
    [path, *_] = (
        path for path in store.objects.iterdir() if json.loads((path / "manifest.json").read_text())["kind"] == kind
    )
    content = bytearray((path / name).read_bytes())
    content[len(content) // 2] ^= 1
    (path / name).chmod(0o644)
    (path / name).write_bytes(content)
    remembered = store.root / "signatures" / f"{path.name}.json"
    remembered.write_text(json.dumps(json.loads(remembered.read_text()) | {"stat": signature(path)}))
    return path.name


def test_what_is_as_it_was_written_is_counted(store: Store):
    found = verify_store(quiet=True)
    held = [file for file in store.objects.rglob("*") if file.is_file()]
    assert found["altered"]["artifacts"] == 0
    assert found["intact"] == {
        "artifacts": len(list(store.objects.iterdir())),
        "bytes": sum(file.stat().st_size for file in held),
    }
    require_intact(found)


@pytest.mark.parametrize("name", ["model.safetensors", "manifest.json"])
def test_a_bit_that_a_disk_changed_is_found_and_the_artifact_set_aside(store: Store, name: str):
    key = rot(store, "variant", name)
    found = verify_store(quiet=True)
    [one] = found["altered"]["found"]
    assert one["key"] == key and Path(one["moved_to"]).is_dir() and not (store.objects / key).exists()
    lines: list[str] = []
    print_verification(found, lines.append)
    assert key[:12] in lines[0] and len(lines) == 2
    with pytest.raises(ComputationError, match=r"1 of .* stored results are not what was written"):
        require_intact(found)
    assert verify_store(quiet=True)["altered"]["artifacts"] == 0
