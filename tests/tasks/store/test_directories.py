import ctypes
import hashlib

import pytest

from pruning_core.errors import ComputationError
from tasks.store import directories


def fill(directory, text):
    directory.mkdir()
    (directory / "file").write_text(text)
    return directory


def test_digests_are_those_of_the_bytes_by_relative_path(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.bin").write_bytes(b"\x00\x01")
    (tmp_path / "manifest.json").write_text("{}")
    (tmp_path / "a" / "manifest.json").write_text("{}")
    assert directories.digests(tmp_path) == {
        "a/b.bin": hashlib.sha256(b"\x00\x01").hexdigest(),
        "a/manifest.json": hashlib.sha256(b"{}").hexdigest(),
    }


def test_a_link_is_refused(tmp_path):
    (tmp_path / "link").symlink_to("/etc/hostname")
    with pytest.raises(ComputationError, match="plain file"):
        directories.digests(tmp_path)


def test_a_write_of_equal_length_changes_the_signature(tmp_path):
    (tmp_path / "a").write_bytes(b"12345678")
    before = directories.signature(tmp_path)
    (tmp_path / "a").write_bytes(b"12345679")
    assert directories.signature(tmp_path) != before


@pytest.mark.parametrize("atomic", [True, False])
def test_a_directory_is_replaced_whole_and_nothing_stays_beside_it(tmp_path, monkeypatch, atomic):
    if not atomic:
        monkeypatch.setattr(ctypes, "CDLL", lambda *a, **k: object())
    new, destination = fill(tmp_path / ".d.new", "new"), fill(tmp_path / "d", "old")
    (destination / "more").write_text("old")
    directories.replace_directory(new, destination)
    assert {path.name: path.read_text() for path in destination.iterdir()} == {"file": "new"}
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


def test_an_exchange_swaps_both_and_reports_when_it_could_not(tmp_path):
    first, second = fill(tmp_path / "1", "one"), fill(tmp_path / "2", "two")
    assert directories.exchange(first, second)
    assert (first / "file").read_text() == "two" and (second / "file").read_text() == "one"
    assert not directories.exchange(first, tmp_path / "absent")
    assert (first / "file").read_text() == "two"
