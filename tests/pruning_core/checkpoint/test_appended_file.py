"""Files that are appended part by part: what a killed writer leaves is taken up as far as it is whole."""

from pathlib import Path

import pytest

from pruning_core.checkpoint import appended_file, durable_files
from pruning_core.checkpoint.appended_file import AppendedFile
from pruning_core.errors import ComputationError

HEAD = b"head of the file"
PARTS = {"first": bytes(range(100)), "second": b"", "third": b"\r\n" * 40, "fourth": b"end"}
WHOLE = HEAD + b"".join(PARTS.values())


class Killed(BaseException):
    """Nothing runs behind it."""


def written(directory: Path, head: bytes = HEAD, origin: str = "model") -> list[str]:
    """The parts that had to be written."""
    file, fresh = AppendedFile(directory / "file", head, list(PARTS), origin), []
    for name, content in PARTS.items():
        if name not in file.notes:
            fresh.append(name)
            file.add(name, content, {"length": len(content)})
    assert file.notes == {name: {"length": len(content)} for name, content in PARTS.items()}
    file.publish()
    assert [path.name for path in directory.iterdir()] == ["file"]
    return fresh


def interrupted(directory: Path, parts: int) -> tuple[Path, Path]:
    """(file, journal) of a writer that stopped behind so many parts."""
    file = AppendedFile(directory / "file", HEAD, list(PARTS), "model")
    for name in list(PARTS)[:parts]:
        file.add(name, PARTS[name], {"length": len(PARTS[name])})
    return directory / ".file.partial", directory / ".file.journal"


@pytest.mark.parametrize("share", [0, 0.5, 1])
def test_killed_within_any_write_it_goes_on_to_the_same_file(tmp_path, monkeypatch, share):
    append, turns = appended_file._append, 0
    while True:
        directory = tmp_path / str(turns)
        directory.mkdir()
        left = [turns]

        def torn(path: Path, content: bytes, left=left) -> None:
            left[0] -= 1
            append(path, content[: int(len(content) * share)] if left[0] < 0 else content)
            if left[0] < 0:
                raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(appended_file, "_append", torn)
            try:
                written(directory)
                break
            except Killed:
                assert not (directory / "file").exists()
        # Head and first line, then two writes for each part; a part is there once its line is whole.
        finished = max(0, turns - 2 + (share == 1)) // 2
        assert written(directory) == list(PARTS)[finished:] and (directory / "file").read_bytes() == WHOLE
        turns += 1
    assert turns == 2 + 2 * len(PARTS)


def test_killed_behind_the_last_rename_nothing_is_written_again(tmp_path):
    partial, _ = interrupted(tmp_path, len(PARTS))
    partial.replace(tmp_path / "file")
    assert written(tmp_path) == [] and (tmp_path / "file").read_bytes() == WHOLE


@pytest.mark.parametrize(("place", "again"), [(len(HEAD), 0), (len(HEAD) + 99, 0), (len(HEAD) + 100, 2)])
def test_from_an_altered_part_on_all_is_written_again(tmp_path, place, again):
    partial, _ = interrupted(tmp_path, 3)
    content = bytearray(partial.read_bytes())
    content[place] ^= 1
    partial.write_bytes(content)
    assert written(tmp_path) == list(PARTS)[again:] and (tmp_path / "file").read_bytes() == WHOLE


def test_an_altered_byte_of_the_journal_costs_the_parts_from_its_line_on(tmp_path):
    partial, journal = interrupted(tmp_path, 3)
    content, whole = partial.read_bytes(), journal.read_bytes()
    for place in range(0, len(whole), 5):
        partial.write_bytes(content)
        altered = bytearray(whole)
        altered[place] ^= 1
        journal.write_bytes(altered)
        lost = max(0, whole[:place].count(b"\n") - 1)
        assert written(tmp_path) == list(PARTS)[lost:] and (tmp_path / "file").read_bytes() == WHOLE
        (tmp_path / "file").unlink()


@pytest.mark.parametrize("kept", [0, 5, len(HEAD), len(HEAD) + 50, len(HEAD) + 120])
def test_a_file_that_lost_its_end_goes_on_at_the_part_that_is_not_whole(tmp_path, kept):
    partial, _ = interrupted(tmp_path, 3)
    partial.write_bytes(partial.read_bytes()[:kept])
    again = 0 if kept < len(HEAD) + 100 else 2
    assert written(tmp_path) == list(PARTS)[again:] and (tmp_path / "file").read_bytes() == WHOLE


def test_what_nobody_recorded_is_cut_off(tmp_path):
    partial, journal = interrupted(tmp_path, 2)
    partial.write_bytes(partial.read_bytes() + b"more")
    journal.write_bytes(journal.read_bytes() + b"more")
    assert written(tmp_path) == list(PARTS)[2:] and (tmp_path / "file").read_bytes() == WHOLE


@pytest.mark.parametrize("other", [{"head": b"another head"}, {"origin": "another model"}])
def test_a_write_of_something_else_is_not_gone_on_with(tmp_path, other):
    interrupted(tmp_path, 3)
    assert written(tmp_path, **other) == list(PARTS)
    assert (tmp_path / "file").read_bytes() == other.get("head", HEAD) + WHOLE[len(HEAD) :]


@pytest.mark.parametrize("lost", [0, 1])
def test_without_the_file_or_its_journal_all_is_written_again(tmp_path, lost):
    interrupted(tmp_path, 3)[lost].unlink()
    assert written(tmp_path) == list(PARTS) and (tmp_path / "file").read_bytes() == WHOLE


def test_a_whole_file_keeps_its_name_until_its_successor_is_whole(tmp_path):
    written(tmp_path)
    interrupted(tmp_path, 2)
    assert (tmp_path / "file").read_bytes() == WHOLE
    assert written(tmp_path) == list(PARTS)[2:]


def test_parts_out_of_order_or_missing_are_noticed(tmp_path):
    file = AppendedFile(tmp_path / "file", HEAD, list(PARTS), "model")
    with pytest.raises(ComputationError, match="'second' is not what comes next"):
        file.add("second", b"")
    file.add("first", PARTS["first"])
    with pytest.raises(ComputationError, match="'second' was never written"):
        file.publish()
    assert not (tmp_path / "file").exists()


@pytest.mark.parametrize("limit", [1, 100, 10**6])
def test_before_its_last_rename_all_of_it_is_on_the_disk(tmp_path, monkeypatch, limit):
    waited, fsync, replace = [], durable_files.os.fsync, Path.replace
    monkeypatch.setattr(appended_file, "SYNCED_BYTES", limit)
    monkeypatch.setattr(durable_files.os, "fsync", lambda number: waited.append(number) or fsync(number))
    monkeypatch.setattr(Path, "replace", lambda path, to: waited.append(path.name) or replace(path, to))
    written(tmp_path)
    # The file and its journal, each time.
    assert waited.index(".file.partial") == len(waited) - 1 == 2 * ({1: 3, 100: 1, 10**6: 0}[limit] + 1)
