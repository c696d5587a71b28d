"""Reading params.yaml."""

from pathlib import Path

import pytest

from pruning_core.errors import InputError
from tasks.workspace.params import read_params


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    return path


def test_overrides_change_nested_keys_with_yaml_values(tmp_path: Path):
    path = written(tmp_path, "a: {b: 1, c: x}\n")
    assert read_params(path, ["a.b=0.25", "a.d=[1, 2]"]) == {"a": {"b": 0.25, "c": "x", "d": [1, 2]}}


def test_the_sections_of_a_file_take_the_place_of_whole_sections_in_the_order_given(tmp_path: Path):
    path = written(tmp_path, "a: {b: 1, c: x}\nd: 2\n")
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "file.yaml").write_text("a: {b: 5}\n")
    expected = {"a": {"b": 7}, "d": 3}
    assert read_params(path, ["a.c=lost", "@more/file.yaml", "a.b=7", "d=3"]) == expected
    assert read_params(path, [f"@{tmp_path / 'more' / 'file.yaml'}"]) == {"a": {"b": 5}, "d": 2}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "there is no file .*other.yaml"),
        ("- a\n", "must be a mapping of sections"),
        ("a: [1\n", "other.yaml line .* is not YAML"),
        ("a: 1\na: 2\n", "^other.yaml line 2: 'a' is given twice"),
    ],
)
def test_a_file_of_sections_that_cannot_be_read_is_named(tmp_path: Path, content, sentence):
    path = written(tmp_path, "a: 1\n")
    if content is not None:
        (tmp_path / "other.yaml").write_text(content)
    with pytest.raises(InputError, match=sentence):
        read_params(path, ["@other.yaml"])


@pytest.mark.parametrize(
    ("text", "overrides", "sentence"),
    [
        ("a: 1\nb: 2\na: 3\n", [], "line 3: 'a' is given twice"),
        ("a: [1\n", [], "is not YAML"),
        ("a: 1\n", ["b"], "is not KEY=VALUE"),
        ("a: 1\n", ["b.c=2"], "no mapping 'b'"),
        ("a: 1\n", ["a=[1"], "is not YAML"),
        ("a: 1\n", ["a={b: 1, b: 2}"], "--set line 1: 'b' is given twice"),
    ],
)
def test_what_cannot_be_read_is_told_with_its_place(tmp_path, text, overrides, sentence):
    with pytest.raises(InputError, match=sentence):
        read_params(written(tmp_path, text), overrides)


def test_a_missing_file_names_the_folder(tmp_path):
    with pytest.raises(InputError, match=r"no params.yaml in .*; run Espalier in the folder"):
        read_params(tmp_path / "params.yaml")
