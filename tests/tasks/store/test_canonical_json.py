import datetime
import hashlib
from pathlib import Path

import pytest

from pruning_core.errors import InputError
from tasks.store.canonical_json import canonical, digest_of, plain, write_json


def test_the_order_in_which_keys_were_written_does_not_show():
    assert canonical({"b": 1, "a": [True, None, "x"]}) == '{"a":[true,null,"x"],"b":1}'


def test_a_digest_is_the_sha256_of_the_canonical_text():
    assert digest_of({"s": 0.1}) == hashlib.sha256(b'{"s":0.1}').hexdigest()


def test_floats_keep_every_bit():
    value = 0.1 + 0.2
    assert float(canonical(value)) == value != 0.3


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ({"a": {"b": Path("x")}}, "params.a.b"),
        ({"a": [1.0, float("nan")]}, r"params.a\[1\]"),
        ({"a": float("inf")}, "params.a"),
        ({"a": {1: 2}}, "params.a"),
        ({"a": datetime.date(2026, 1, 1)}, "params.a"),
        ({"a": {2}}, "params.a"),
        ({"a": b"x"}, "params.a"),
    ],
)
def test_what_json_would_change_or_refuse_is_named_by_its_place(value, place):
    with pytest.raises(InputError, match=place):
        canonical(value, "params")


def test_a_plain_value_shares_nothing_with_the_original_and_has_no_tuples():
    original = {"a": (1, [2])}
    copy = plain(original)
    copy["a"][1].append(3)
    assert copy == {"a": [1, [2, 3]]} and original == {"a": (1, [2])}


def test_a_refused_value_leaves_the_old_file(tmp_path):
    write_json(tmp_path / "a.json", {"x": 1})
    with pytest.raises(InputError):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert (tmp_path / "a.json").read_text() == '{\n "x": 1\n}\n'
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
