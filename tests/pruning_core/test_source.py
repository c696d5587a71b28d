"""Finding the dense model: what is complete is found, and what is not says in one sentence what to do."""

import hashlib
import json
import shutil

import huggingface_hub.constants
import pytest
import torch
from huggingface_hub import errors as hub
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM
from transformers.utils import logging as transformers_logging

from pruning_core.errors import ComputationError, InputError
from pruning_core.source import load_model, resolve


@pytest.fixture
def offline(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


def edit_weights(directory, change) -> None:
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})


def edit_config(directory, **values) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_local_directory_is_found_with_its_config_tokenizer_and_context(tiny_directory):
    source = resolve(str(tiny_directory))
    assert source.path == tiny_directory
    assert source.identity == {"model": str(tiny_directory), "revision": None, "trust_remote_code": False}
    assert source.config().num_hidden_layers == 2
    assert source.tokenizer()("w3 w5").input_ids == [3, 5]
    assert source.context_length() == 32


def test_a_relative_directory_is_looked_up_in_the_workspace(tiny_directory):
    found = resolve(tiny_directory.name, workspace=tiny_directory.parent)
    assert found.digest == resolve(str(tiny_directory)).digest


def test_a_directory_wins_over_a_hub_id_of_the_same_name(tiny_directory, tmp_path):
    shutil.copytree(tiny_directory, tmp_path / "org" / "name@main")
    assert resolve("org/name@main", workspace=tmp_path).path == tmp_path / "org" / "name@main"


def test_real_models_of_four_families_are_found(shared):
    lengths = {
        path.name: resolve(str(path)).context_length() for path in (shared / "models").iterdir() if path.is_dir()
    }
    assert lengths == {
        "stories260K-llama": 512,
        "stories260K-mistral": 512,
        "shakespeare-char-818K-gpt2": 64,
        "shakespeare-char-818K-opt": 64,
    }


def test_the_digest_is_over_the_files_that_make_the_model_and_no_others(tiny_directory):
    before = resolve(str(tiny_directory))
    names = ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json"]
    names += ["tokenizer_config.json"]
    by_hand = {name: hashlib.sha256((tiny_directory / name).read_bytes()).hexdigest() for name in names}
    assert before.files == by_hand
    assert before.digest == hashlib.sha256(json.dumps(sorted(by_hand.items())).encode()).hexdigest()
    (tiny_directory / "README.md").write_text("changed")
    assert resolve(str(tiny_directory)).digest == before.digest


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "merges.txt"])
def test_the_digest_changes_with_every_file_that_makes_the_model(tiny_directory, name):
    before = resolve(str(tiny_directory)).digest
    path = tiny_directory / name
    if name == "model.safetensors":
        edit_weights(tiny_directory, lambda tensors: tensors["model.norm.weight"].add_(1))
    else:
        path.write_text((path.read_text() if path.exists() else "") + "\n")
    assert resolve(str(tiny_directory)).digest != before


def test_remote_code_counts_in_the_digest_only_where_it_is_trusted(tiny_directory):
    def digests():
        return [resolve(str(tiny_directory), trust_remote_code=trust).digest for trust in (False, True)]

    before = digests()
    (tiny_directory / "modeling_own.py").write_text("")
    after = digests()
    assert after[0] == before[0]
    assert after[1] != before[1]


def test_a_caching_hasher_is_asked_for_every_file(tiny_directory):
    source = resolve(str(tiny_directory), hash_file=lambda path: path.name)
    assert source.files == {name: name for name in source.files}
    assert len(source.files) == 5


@pytest.mark.parametrize("model", ["nowhere", "./no/where", "a/b/c", "/no/where"])
def test_a_directory_that_does_not_exist_is_said_not_to(model):
    with pytest.raises(InputError, match="does not exist"):
        resolve(model)


def test_a_hub_id_offline_names_the_local_alternative_in_one_sentence(offline):
    with pytest.raises(InputError, match=r"no directory 'org/name@main'.*offline.*point `model:`") as refusal:
        resolve("org/name@main")
    assert "\n" not in str(refusal.value)


def test_a_hub_model_in_the_cache_is_found_offline_with_its_commit(offline, tiny_directory, tmp_path):
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "hub" / "models--org--name"
    shutil.copytree(tiny_directory, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "v1").write_text(commit)
    source = resolve("org/name@v1")
    assert source.identity == {"model": "org/name@v1", "revision": commit, "trust_remote_code": False}
    assert source.digest == resolve(str(tiny_directory)).digest


class Response:
    """As much of an HTTP response as an error of the hub needs."""

    headers: dict = {}  # noqa: RUF012
    request = None
    status_code = 404


@pytest.mark.parametrize(
    ("failure", "sentence"),
    [
        (hub.GatedRepoError("", response=Response()), "needs permission"),
        (hub.RepositoryNotFoundError("", response=Response()), "unknown or private"),
        (hub.RevisionNotFoundError("", response=Response()), "no revision 'v1'"),
        (hub.HfHubHTTPError("", response=Response()), "cannot be fetched"),
        (hub.HFValidationError("two --"), "not valid"),
        (ConnectionError(), "cannot be fetched"),
    ],
)
def test_every_failure_of_the_hub_becomes_one_sentence(monkeypatch, failure, sentence):
    def fail(*_, **__):
        raise failure

    monkeypatch.setattr("pruning_core.checkpoint.hub_snapshot.snapshot_download", fail)
    with pytest.raises(InputError, match=sentence):
        resolve("org/name@v1")


def test_pickles_are_not_downloaded_and_code_only_when_it_is_trusted(monkeypatch, tiny_directory):
    asked = []

    def download(name, **settings):
        asked.append((name, settings["revision"], settings["allow_patterns"]))
        return str(tiny_directory)

    monkeypatch.setattr("pruning_core.checkpoint.hub_snapshot.snapshot_download", download)
    resolve("org/name@v1")
    resolve("org/name", trust_remote_code=True)
    (name, revision, plain), (_, latest, trusting) = asked
    assert (name, revision, latest) == ("org/name", "v1", None)
    assert "*.bin" not in plain + trusting
    assert set(trusting) - set(plain) == {"*.py"}


@pytest.mark.parametrize(
    ("gone", "sentence"),
    [
        ("config.json", "has no config.json"),
        ("tokenizer.json", "has no tokenizer"),
        ("model.safetensors", "no weights"),
    ],
)
def test_an_incomplete_directory_is_refused(tiny_directory, gone, sentence):
    (tiny_directory / gone).unlink()
    with pytest.raises(InputError, match=sentence):
        resolve(str(tiny_directory))


@pytest.mark.parametrize("content", ["{", "[]", '{"model_type": "no-such-architecture"}', "{}"])
def test_a_config_that_cannot_be_used_is_refused(tiny_directory, content):
    (tiny_directory / "config.json").write_text(content)
    with pytest.raises(InputError, match=r"config\.json"):
        resolve(str(tiny_directory))


def test_code_that_comes_with_a_model_is_not_run_unless_trusted(tiny_directory):
    edit_config(
        tiny_directory,
        model_type="own",
        auto_map={"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"},
    )
    (tiny_directory / "own.py").write_text("raise SystemExit('was run')")
    with pytest.raises(InputError, match="trust_remote_code: true"):
        resolve(str(tiny_directory))
    with pytest.raises(InputError, match="trust_remote_code: true"):
        load_model(tiny_directory)


@pytest.mark.parametrize("content", ["{", "\x00"])
def test_a_damaged_tokenizer_is_refused(tiny_directory, content):
    (tiny_directory / "tokenizer.json").write_text(content)
    with pytest.raises(InputError, match=r"tokenizer\.json is not JSON"):
        resolve(str(tiny_directory)).tokenizer()


def test_a_loaded_model_has_the_weights_of_the_file_and_is_ready_for_evaluation(tiny_directory):
    model = load_model(tiny_directory)
    stored = load_file(tiny_directory / "model.safetensors")
    assert all(value.equal(stored[name]) for name, value in model.state_dict().items())
    assert not model.training
    assert model.config.use_cache is False


def test_the_dtype_is_the_one_asked_for_whatever_is_stored(tiny_directory):
    edit_weights(tiny_directory, lambda tensors: tensors.update({k: v.half() for k, v in tensors.items()}))
    assert {value.dtype for value in load_model(tiny_directory).parameters()} == {torch.float32}
    assert {value.dtype for value in load_model(tiny_directory, "bfloat16").parameters()} == {torch.bfloat16}
    with pytest.raises(InputError, match=r"'int8'.*float32, bfloat16, float16"):
        load_model(tiny_directory, "int8")


def test_tied_weights_need_no_output_matrix_in_the_file(tiny_llama, tmp_path):
    tiny_llama(tie_word_embeddings=True).save_pretrained(tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    model = load_model(tmp_path)
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_a_weight_that_the_file_lacks_is_an_error_and_not_a_random_one(tiny_directory):
    edit_weights(tiny_directory, lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight"))
    with pytest.raises(InputError, match=r"lacks the weight model\.layers\.1\.mlp\.up_proj\.weight"):
        load_model(tiny_directory)


def test_weights_that_the_config_does_not_know_are_an_error(tiny_directory):
    edit_config(tiny_directory, num_hidden_layers=1)
    with pytest.raises(InputError, match=r"knows nothing of: model\.layers\.1\.\S+ and \d+ more"):
        load_model(tiny_directory)


def test_weights_of_another_shape_are_an_error_with_their_name(tiny_directory):
    edit_weights(tiny_directory, lambda tensors: tensors.update({"model.norm.weight": torch.ones(17)}))
    with pytest.raises(InputError, match=r"another shape than its config\.json asks for: model\.norm\.weight"):
        load_model(tiny_directory)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_is_named(tiny_directory, value):
    name = "model.layers.0.mlp.down_proj.weight"
    edit_weights(tiny_directory, lambda tensors: tensors[name][3, 5].fill_(value))
    with pytest.raises(ComputationError, match=name):
        load_model(tiny_directory)


def test_a_truncated_file_is_found_before_it_is_loaded(tiny_directory):
    path = tiny_directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    for use in (lambda: resolve(str(tiny_directory)), lambda: load_model(tiny_directory)):
        with pytest.raises(InputError, match="truncated"):
            use()


def test_an_architecture_that_is_no_language_model_is_refused(tiny_directory):
    edit_config(tiny_directory, model_type="vit")
    with pytest.raises(InputError, match="transformers cannot load"):
        load_model(tiny_directory)


@pytest.mark.parametrize("shown", [True, False])
def test_loading_draws_nothing_shows_no_bar_and_leaves_the_settings_alone(tiny_directory, capfd, shown):
    before = transformers_logging.is_progress_bar_enabled()
    switch = {
        True: transformers_logging.enable_progress_bar,
        False: transformers_logging.disable_progress_bar,
    }
    switch[shown]()
    state = torch.get_rng_state()
    assert isinstance(load_model(tiny_directory), LlamaForCausalLM)
    assert torch.get_rng_state().equal(state)
    after = transformers_logging.is_progress_bar_enabled()
    switch[before]()
    assert after == shown
    assert capfd.readouterr() == ("", "")
