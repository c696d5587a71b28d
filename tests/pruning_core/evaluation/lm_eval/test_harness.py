"""Tasks through lm-evaluation-harness, held against prompts spelled out and forwards made by hand."""

import os
import socket
import sys
from dataclasses import replace
from pathlib import Path

import lm_eval.tasks
import numpy as np
import pytest
import torch
import yaml
from lm_eval.evaluator import evaluate

from pruning_core.errors import ComputationError, InputError
from pruning_core.evaluation.lm_eval import harness
from pruning_core.evaluation.lm_eval.definitions import set_few_shot, task_of_hub, task_of_rows
from pruning_core.evaluation.lm_eval.harness import Answers, Examinee, answer
from pruning_core.evaluation.lm_eval.layouts import BENCHMARKS
from pruning_core.evaluation.lm_eval.rows import read_rows
from pruning_core.evaluation.lm_eval.scores import accuracies, beside
from pruning_core.evaluation.protocol import TaskProtocol
from pruning_core.source import load_model, resolve

ROOT = Path(__file__).resolve().parents[4]
SCENE = {
    "activity_label": "Roof",
    "ctx_a": "A man is there.",
    "ctx_b": "he",
    "endings": ["[step] runs  off.", "sings."],
}
GAP = {"sentence": "The cat saw the dog because _ was big.", "option1": "the cat", "option2": "the dog", "answer": "2"}
WORD = {"text": "Once upon a time there was a little girl"}
PIECES = {"context": "Once upon a time", "choices": [" there was a cat", " blue", ", he sat"], "label": 0}
OWN = {"hellaswag": SCENE | {"label": "1"}, "winogrande": GAP, "lambada_openai": WORD, "domain": PIECES}


def spelled(name: str, row: dict) -> tuple[list[tuple[str, str]], int]:
    """(context, answer) of every request, and which is right, as the papers' prompts are written."""
    if name == "boolq":
        return [(f"{row['passage']}\nQuestion: {row['question']}?\nAnswer:", f" {one}") for one in ("no", "yes")], row[
            "label"
        ]
    if name == "piqa":
        return [(f"Question: {row['goal']}\nAnswer:", f" {row[key]}") for key in ("sol1", "sol2")], row["label"]
    if name == "arc_easy":
        right = row["choices"]["label"].index(row["answerKey"])
        return [(f"Question: {row['question']}\nAnswer:", f" {one}") for one in row["choices"]["text"]], right
    if name == "openbookqa":
        right = row["choices"]["label"].index(row["answerKey"])
        return [(row["question_stem"], f" {one}") for one in row["choices"]["text"]], right
    if name == "hellaswag":
        return [("Roof: A man is there. He", f" {one}") for one in (" runs off.", "sings.")], 1
    if name == "winogrande":
        return [(f"The cat saw the dog because {one}", " was big.") for one in ("the cat", "the dog")], 1
    if name == "lambada_openai":
        return [("Once upon a time there was a little", " girl")], 0
    return [("Once upon a time", one) for one in row["choices"]], 0


@torch.no_grad()
def by_hand(model, tokenizer, context: str, continuation: str) -> tuple[float, bool]:
    """Log-likelihood of the continuation in nats, from one forward in float64, and whether every token is the best."""
    ids = tokenizer(context + continuation)["input_ids"]
    start = len(tokenizer(context)["input_ids"])
    logits = model(torch.tensor([ids[-(model.config.max_position_embeddings + 1) : -1]])).logits[0].double()
    found = logits[-(len(ids) - start) :].log_softmax(-1)
    wanted = torch.tensor(ids[start:])
    return float(found.gather(1, wanted[:, None]).sum()), bool((found.argmax(-1) == wanted).all())


@pytest.fixture(scope="module")
def story(shared: Path) -> Examinee:
    source = resolve(str(shared / "models" / "stories260K-llama"))
    return Examinee(load_model(source.path), source.tokenizer(), 8)


@pytest.fixture(scope="module")
def code() -> Examinee:
    source = resolve(str(ROOT / "models" / "stdlib-2.8m"))
    return Examinee(load_model(source.path), source.tokenizer(), 8)


def shared_rows(shared: Path, name: str, count: int) -> list[dict]:
    return read_rows(shared / "data" / "zeroshot" / f"{name}_validation.jsonl", BENCHMARKS[name].layout)[:count]


def check(examinee: Examinee, name: str, rows: list[dict]) -> Answers:
    given = answer(examinee, task_of_rows(name, rows))
    for row, item in zip(rows, given.items, strict=True):
        requests, right = spelled(name, row)
        found = [by_hand(examinee.model, examinee.tokenizer, *request) for request in requests]
        likelihoods = np.array([likelihood for likelihood, _ in found])
        np.testing.assert_allclose(item.log_likelihoods, likelihoods, rtol=1e-4, atol=1e-4)
        if len(requests) == 1:
            assert (item.correct, item.chosen, item.correct_norm) == (found[0][1], None, None)
            continue
        assert (item.chosen, item.correct) == (likelihoods.argmax(), likelihoods.argmax() == right)
        if item.chosen_norm is not None:
            # Per character of the answer, the space before it not counted; the pieces of a text have none.
            answers = [one if name == "domain" else one[1:] for _, one in requests]
            normalised = (likelihoods / [len(one) for one in answers]).argmax()
            assert (item.chosen_norm, item.correct_norm) == (normalised, normalised == right)
    return given


@pytest.mark.parametrize("name", ["piqa", "boolq", "arc_easy", "openbookqa"])
def test_answers_are_those_of_forwards_made_by_hand(shared: Path, story: Examinee, name: str):
    given = check(story, name, shared_rows(shared, name, 4))
    assert (given.items[0].correct_norm is None) == (name == "boolq")


@pytest.mark.parametrize("name", OWN)
def test_every_kind_of_task_gives_the_answers_of_forwards_made_by_hand(code: Examinee, name: str):
    given = check(code, name, [OWN[name]] * 2)
    assert given.protocol["few_shot"] == 0 and given.protocol["items"] == 2


class _Plain(yaml.SafeLoader):
    """Reads a definition of the harness without running its functions."""


_Plain.add_constructor("!function", lambda loader, node: node.value)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_prompts_and_metrics_are_the_harness_own(name: str):
    folder = Path(lm_eval.tasks.__file__).parent / BENCHMARKS[name].folder
    definitions = [yaml.load(file.read_text(), _Plain) for file in folder.glob("*.yaml")]
    (own,) = [one for one in definitions if one["task"] == name]
    if "include" in own:
        own = yaml.load((folder / own["include"]).read_text(), _Plain) | own
    layout = {"arc_challenge": "arc_easy", "lambada_standard": "lambada_openai"}.get(name, name)
    exam = {"choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "A"}
    rows = OWN | {
        "boolq": {"passage": "p", "question": "q", "label": 0},
        "piqa": {"goal": "g", "sol1": "a", "sol2": "b", "label": 0},
        "arc_easy": exam | {"question": "q"},
        "openbookqa": exam | {"question_stem": "q"},
    }
    config = task_of_rows(name, [rows[layout]]).config
    for key in ("doc_to_text", "doc_to_choice", "doc_to_target", "process_docs"):
        found, written = getattr(config, key), own.get(key)
        # A function is written as module.name.
        assert found.__name__ == written.rpartition(".")[2] if callable(found) else found == written
    assert config.metric_list == own["metric_list"] and config.output_type == own["output_type"]
    assert config.metadata["version"] == own["metadata"]["version"]


def test_accuracies_and_errors_are_those_that_the_harness_reports(shared: Path, story: Examinee):
    rows = shared_rows(shared, "piqa", 12)
    own = accuracies(answer(story, task_of_rows("piqa", rows)).items)
    task = task_of_rows("piqa", rows)
    set_few_shot(task, 0)
    theirs = evaluate(story, {"tasks": {"piqa": task}}, bootstrap_iters=1)["results"]["piqa"]
    for name, metric in (("accuracy", "acc"), ("accuracy_norm", "acc_norm")):
        assert own[name] == pytest.approx(theirs[f"{metric},none"])
        assert own[f"{name}_error"] == pytest.approx(theirs[f"{metric}_stderr,none"])
    assert own["chance"] == 0.5
    lambada = task_of_rows("lambada_openai", [WORD, {"text": "He saw a big dog"}])
    given = answer(story, lambada)
    reported = evaluate(story, {"tasks": {"lambada_openai": lambada}}, bootstrap_iters=0)["results"]["lambada_openai"]
    assert accuracies(given.items)["perplexity"] == pytest.approx(reported["perplexity,none"])


def test_the_same_question_gets_the_same_answer_whatever_was_asked_before(shared: Path, story: Examinee):
    rows = shared_rows(shared, "arc_easy", 6)
    first = answer(story, task_of_rows("arc_easy", rows), limit=5)
    torch.manual_seed(7)
    assert answer(story, task_of_rows("arc_easy", rows), limit=5) == first
    assert len(first.items) == 5 and first.protocol["limit"] == 5
    itself = beside(first.items, first.items)
    assert itself["accuracy"]["p_value"] == 1.0 and itself["accuracy_norm"]["difference"] == 0.0
    with pytest.raises(InputError, match="different items"):
        beside(first.items, first.items[:4])


def test_examples_are_drawn_alike_each_time_and_never_the_item_that_is_asked(shared: Path, story: Examinee):
    rows = shared_rows(shared, "piqa", 4)
    task = task_of_rows("piqa", rows)
    first = answer(story, task, few_shot=3)
    prompts = [instance.args[0] for instance in task.instances if instance.idx == 0]
    for row, prompt in zip(rows, prompts, strict=True):
        asked = f"Question: {row['goal']}\nAnswer:"
        assert prompt.endswith(asked) and prompt.count(asked) == 1 and prompt.count("Question:") == 4
    assert answer(story, task_of_rows("piqa", rows), few_shot=3) == first
    other = answer(story, task_of_rows("piqa", rows[:2], examples=rows[2:]), few_shot=1)
    assert other.protocol["data"] != first.protocol["data"] and other.protocol["few_shot"] == 1
    with pytest.raises(InputError, match="4 items to draw 4 examples from"):
        answer(story, task_of_rows("piqa", rows), few_shot=4)


def test_prompts_that_lose_their_beginning_are_counted(story: Examinee):
    long = {"passage": "a dog ran. " * 300, "question": "did it", "label": 1}
    given = check(story, "boolq", [long, long | {"passage": "A dog."}])
    assert given.truncated == 2


def test_an_answer_that_no_context_holds_is_refused(story: Examinee):
    with pytest.raises(InputError, match="tokens of its own, and the model takes 1 to 512"):
        answer(story, task_of_rows("piqa", [{"goal": "g", "sol1": "a dog " * 600, "sol2": "b", "label": 0}]))


def test_a_model_that_computes_nan_is_told(tiny_llama, shared: Path):
    source = resolve(str(shared / "models" / "stories260K-llama"))
    broken = tiny_llama(vocab_size=512)
    broken.lm_head.weight.data[:] = torch.nan
    with pytest.raises(ComputationError, match="log-likelihood of item 0 of task piqa is not finite"):
        answer(
            Examinee(broken, source.tokenizer(), 2),
            task_of_rows("piqa", [{"goal": "g", "sol1": "a", "sol2": "b", "label": 0}]),
        )


def test_the_tokenizer_is_left_as_it_was(shared: Path):
    source = resolve(str(shared / "models" / "stories260K-llama"))
    tokenizer = source.tokenizer()
    before = (tokenizer.pad_token, tokenizer.model_max_length, len(tokenizer))
    Examinee(load_model(source.path), tokenizer, 2)
    assert (tokenizer.pad_token, tokenizer.model_max_length, len(tokenizer)) == before


def test_progress_ends_at_the_number_of_forwards(shared: Path, story: Examinee):
    seen = []
    answer(story, task_of_rows("boolq", shared_rows(shared, "boolq", 3)), progress=lambda *place: seen.append(place))
    # " no" and " yes" may differ in one token, and are then read off one forward.
    assert seen[-1][0] == seen[-1][1] and seen[-1][1] in (3, 6)


def test_batches_are_small_enough_for_their_logits(shared: Path, story: Examinee, monkeypatch):
    rows = shared_rows(shared, "arc_easy", 4)
    expected = answer(story, task_of_rows("arc_easy", rows))
    batches, call = [], story._model_call
    monkeypatch.setattr(story, "_model_call", lambda inputs: batches.append(inputs.shape) or call(inputs))
    answer(story, task_of_rows("arc_easy", rows))
    longest = max(length for _, length in batches)
    for room, most in ((3, 3), (0.5, 1), (100, 8)):
        batches.clear()
        monkeypatch.setattr(harness, "LOGITS_BYTES", int(room * longest * 512 * 4))
        found = answer(story, task_of_rows("arc_easy", rows))
        assert max(count for count, _ in batches) == most
        for one, other in zip(found.items, expected.items, strict=True):
            np.testing.assert_allclose(one.log_likelihoods, other.log_likelihoods, rtol=1e-5)


def test_a_protocol_says_what_differs():
    task = {"version": "1.0", "few_shot": 0, "limit": None, "items": 3, "data": "d", "prompts": "p"}
    protocol = TaskProtocol({"piqa": task}, "0.4.13", 512)
    protocol.require_same(TaskProtocol({"piqa": dict(task)}, "0.4.13", 512))
    for change, sentence in (({"few_shot": 5}, "tasks.piqa.few_shot 0 and 5"), ({"data": "e"}, "tasks.piqa.data")):
        other = replace(protocol, tasks={"piqa": task | change})
        assert other.digest != protocol.digest
        with pytest.raises(InputError, match=sentence):
            protocol.require_same(other)
    with pytest.raises(InputError, match="length 512 and 256"):
        protocol.require_same(replace(protocol, length=256))


def test_without_the_network_a_task_that_must_be_downloaded_is_told(tmp_path: Path, monkeypatch):
    def unreachable(*_: object) -> None:
        raise OSError("the network is unreachable")

    monkeypatch.setattr(socket.socket, "connect", unreachable)
    monkeypatch.setattr(socket, "getaddrinfo", unreachable)
    with pytest.raises(InputError, match=r"the data of task 'piqa' cannot be had .* give a local file as data"):
        task_of_hub("piqa", tmp_path)


WRITTEN: list[str] = []
WATCHING = False


def watch(event: str, arguments: tuple) -> None:
    """Remembers every file that is opened for writing and every folder that is made while WATCHING."""
    if WATCHING and event == "os.mkdir":
        WRITTEN.append(str(arguments[0]))
    if WATCHING and event == "open" and (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        WRITTEN.append(str(arguments[0]))


sys.addaudithook(watch)


def test_nothing_is_written_and_nothing_is_shown_and_the_network_is_not_asked(
    code: Examinee, tmp_path: Path, monkeypatch, capfd, caplog
):
    def refused(*_: object) -> None:
        raise AssertionError("the network was asked for")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)
    monkeypatch.setitem(globals(), "WATCHING", True)
    for name, row in OWN.items():
        answer(code, task_of_rows(name, [row] * 2))
    assert WRITTEN == [] and caplog.messages == []
    assert tuple(capfd.readouterr()) == ("", "")
    (tmp_path / "seen").touch()
    # Were nothing seen at all, the list would be empty too.
    assert [str(tmp_path / "seen")] == WRITTEN
