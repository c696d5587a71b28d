"""The one record of a variant: JSON on both sides of it, and what is not known here carried along."""

import json

import pytest
from records import RECIPES, make_record

from pruning_core.errors import InputError
from tasks.records.variant import parse


@pytest.mark.parametrize("name", RECIPES)
def test_a_record_is_the_json_that_it_was_made_of(tmp_path, name: str):
    known = make_record(tmp_path, name)
    for layer in known["manifest"]["facts"].get("layers", []):
        layer |= {"zeros": layer["removed"], "bits": None, "groups": None, "tokens": None}
    known["manifest"]["inputs"] = {"source": {"kind": "source", "key": "k", "digest": "d"}}
    known |= {"exports": [{"label": "sparse", "file_bytes": 7, "bits_per_weight": 2.0}], "of a newer version": [1]}
    assert json.dumps(parse(known).as_json(), sort_keys=True) == json.dumps(known, sort_keys=True)


def test_the_run_that_a_variant_got_is_a_part_of_its_json(tmp_path):
    variant = parse(make_record(tmp_path, "wanda-50"))
    assert "run_id" not in variant.as_json()
    tracked = variant.model_copy(update={"run_id": "3f9d"})
    assert tracked.as_json() == variant.as_json() | {"run_id": "3f9d"}


def test_a_layer_that_cannot_be_is_named_with_its_variant(tmp_path):
    known = make_record(tmp_path, "wanda-50")
    known["manifest"]["facts"]["layers"][2]["rows"] = "96"
    with pytest.raises(InputError, match=r"'wanda-50' .*manifest\.facts\.layers\.2: .*rows of the layer .* is '96'"):
        parse(known)
