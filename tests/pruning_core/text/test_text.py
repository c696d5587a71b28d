"""Sources of text: what they return, and what they say when they cannot."""

import hashlib
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from pruning_core.errors import InputError
from pruning_core.text import TEXTS, Documents
from pruning_core.text.stdlib import is_kept, is_table, library, split_of

SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def stdlib() -> dict[str, Documents]:
    return {split: TEXTS.build({"name": "stdlib", "split": split}).read() for split in SPLITS}


def test_the_digest_is_the_sha256_of_the_joined_utf_8_text():
    documents = Documents(("é\n", "", "漢"), "--", {"name": "here"})
    assert documents.text == "é\n----漢"
    assert documents.digest == hashlib.sha256("é\n----漢".encode()).hexdigest()


def test_the_splits_of_the_library_are_disjoint_and_together_every_kept_file(stdlib):
    kept = sorted(text for _, text in library(Path(os.__file__).parent))
    together = sorted(text for split in SPLITS for text in stdlib[split].texts)
    assert together == kept
    assert 0.8 < len(stdlib["train"].texts) / len(kept) < 0.97
    assert min(len(stdlib[split].text) for split in SPLITS) > 100_000


def test_a_file_of_the_library_is_in_the_split_that_the_hash_of_its_path_says(stdlib):
    for name in ("argparse.py", "json/decoder.py", "asyncio/base_events.py", "turtle.py", "xml/sax/handler.py"):
        percent = 100 * int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) / 0x1_0000_0000
        expected = "train" if percent < 90 else "validation" if percent < 95 else "test"
        text = (Path(os.__file__).parent / name).read_text(encoding="utf-8")
        assert [split for split in SPLITS if text in stdlib[split].texts] == [expected]


def test_reading_the_library_twice_gives_the_same_digest_and_says_which_python(stdlib):
    again = TEXTS.build({"name": "stdlib", "split": "test"}).read()
    assert again.digest == stdlib["test"].digest
    assert again.source["python"] == platform.python_version()
    assert again.source["files"] == len(again.texts)


def test_a_tree_is_read_in_the_order_of_its_paths_without_tests_tables_and_packages(tmp_path):
    code = "import os\n\n\ndef f():\n    return 1\n"
    files = {
        "b.py": code + "# b",
        "a/z.py": code + "# z",
        "a.py": code + "# a",
        "test/test_a.py": code,
        "lib2to3/tests/x.py": code,
        "site-packages/pkg/x.py": code,
        "encodings/cp1.py": code,
        "config-3.11-x86/makesetup.py": code,
        "_sysconfigdata__linux.py": code,
        "html/entities.py": "e = {\n" + "    'amp': 38,\n" * 20 + "}\n",
        "empty.py": "\n",
        "notes.txt": "text",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(text.encode())
    (tmp_path / "latin.py").write_bytes(b"# caf\xe9\n" + code.encode())
    (tmp_path / "dos.py").write_bytes(code.replace("\n", "\r\n").encode())
    assert list(library(tmp_path)) == [
        ("a.py", code + "# a"),
        ("a/z.py", code + "# z"),
        ("b.py", code + "# b"),
        ("dos.py", code),
    ]


@pytest.mark.parametrize("name", ["html/entities.py", "keyword.py", "stringprep.py"])
def test_tables_of_this_python_are_recognised(name):
    assert is_table((Path(os.__file__).parent / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ["argparse.py", "ast.py", "decimal.py", "opcode.py", "tkinter/__init__.py"])
def test_code_of_this_python_is_no_table(name):
    assert is_kept(name)
    assert not is_table((Path(os.__file__).parent / name).read_text(encoding="utf-8"))


def test_the_split_of_a_path_never_changes():
    # The shipped model was trained on this split: another one would leak its training text into the tests.
    shipped = {
        "argparse.py": "train",
        "pickle.py": "test",
        "asyncio/base_events.py": "test",
        "functools.py": "validation",
    }
    assert {name: split_of(name) for name in shipped} == shipped


def test_a_file_is_one_document_unless_a_separator_parts_it(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\n\r\ntwo\n\nthree\n")
    whole = TEXTS.build({"name": "file", "path": str(path)}).read()
    assert whole.texts == ("one\n\ntwo\n\nthree\n",)
    parted = TEXTS.build({"name": "file", "path": str(path), "separator": "\n\n"}).read()
    assert parted.texts == ("one", "two", "three\n")
    assert parted.digest == whole.digest


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nothing_here\.txt: No such file"):
        TEXTS.build({"name": "file", "path": str(tmp_path / "nothing_here.txt")}).read()


def test_a_file_in_another_encoding_is_refused_with_its_line(tmp_path):
    path = tmp_path / "latin.txt"
    path.write_bytes("one\ntwo\ncafé\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"not UTF-8 in line 3 \(byte 11 is 0xe9\)"):
        TEXTS.build({"name": "file", "path": str(path)}).read()


def test_a_file_without_text_is_refused(tmp_path):
    (tmp_path / "blank.txt").write_text(" \n\n")
    with pytest.raises(InputError, match="holds no text"):
        TEXTS.build({"name": "file", "path": str(tmp_path / "blank.txt")}).read()


def test_json_lines_are_documents_and_unicode_line_separators_do_not_cut_them(tmp_path):
    path = tmp_path / "a.jsonl"
    texts = ["one\ntwo", "three\u2028four\x85", ""]
    lines = [json.dumps({"id": n, "body": text}, ensure_ascii=False) for n, text in enumerate(texts)]
    path.write_text("\n\n".join(lines) + "\n", encoding="utf-8")
    documents = TEXTS.build({"name": "jsonl", "path": str(path), "field": "body", "separator": "|"}).read()
    assert documents.texts == tuple(texts)
    assert documents.text == "one\ntwo|three\u2028four\x85|"


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ('{"body": "x"}', r"line 3 has no field 'text' \(its fields: body\)"),
        ('{"text": 3}', "line 3: field 'text' is not a string"),
        ("[1]", "line 3 is not a JSON object"),
        ('{"text": ', "line 3 is not JSON"),
    ],
)
def test_a_bad_json_line_is_named(tmp_path, line, sentence):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "x"}\n\n' + line + "\n")
    with pytest.raises(InputError, match=sentence):
        TEXTS.build({"name": "jsonl", "path": str(path)}).read()


def test_a_json_file_without_lines_is_refused(tmp_path):
    (tmp_path / "a.jsonl").write_text("\n")
    with pytest.raises(InputError, match="no line"):
        TEXTS.build({"name": "jsonl", "path": str(tmp_path / "a.jsonl")}).read()


def test_the_hub_offline_is_one_sentence_that_names_the_local_way(tmp_path):
    script = """
from pruning_core.errors import InputError
from pruning_core.text import TEXTS
for dataset in ("wikitext2", "c4", "someone/something"):
    try:
        TEXTS.build({"name": "hub", "dataset": dataset}).read()
    except InputError as error:
        print(error)
"""
    # Another process: the libraries look at the variable once, when they are imported.
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, cwd=root, capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    for line, dataset in zip(lines, ("Salesforce/wikitext", "allenai/c4", "someone/something"), strict=True):
        assert f"cannot load train of {dataset}" in line
        assert "{name: file, path: ...} or {name: jsonl, path: ...}" in line


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ({"dataset": "wikitext"}, "use wikitext2, c4 or an id 'organisation/name'"),
        ({"dataset": "wikitext2", "config": "wikitext-103-v1"}, "fixes config and field"),
        ({"dataset": "c4", "split": "test"}, "has the splits train, validation, not 'test'"),
        ({"dataset": "c4", "filed": "text"}, "did you mean 'field'"),
    ],
)
def test_a_hub_text_that_cannot_be_is_refused_before_anything_is_loaded(spec, sentence):
    with pytest.raises(InputError, match=sentence):
        TEXTS.build({"name": "hub", **spec})


def test_an_unknown_split_of_the_library_is_refused():
    with pytest.raises(InputError, match="split"):
        TEXTS.build({"name": "stdlib", "split": "dev"})
