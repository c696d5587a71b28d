"""Calibration on text of another kind than the model is judged on."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.common.spreads import SpreadPanel, evenly
from benchmarks.common.tables import table
from benchmarks.quality.entries import Entry
from benchmarks.quality.figures import Bench
from benchmarks.quality.seeds import (
    CAPTION,
    difference,
    ledger,
    losses,
    perplexities,
    runs_of,
    signed,
    spread,
    verdict,
)
from benchmarks.studies.study import StudySettings, bullets, head, judged, recipe, tail, title_of
from benchmarks.studies.texts import OWN, CalibrationText, texts
from pruning_core.checkpoint.model_files import read_tokenizer
from tasks.steps.evaluate import EvaluateParams, evaluate

METHODS = ("wanda", "sparsegpt")
WITHOUT = "magnitude"
"""The method that looks at no text."""
ABOUT = (
    "**Comments only**: docstrings and comments of every fourth file of the train split of the standard library, "
    "without its code; the shipped model was trained on them, among the code. **Python's manual**: the chapters of "
    "Python's own help, English prose that is in no split. **Random tokens**: drawn evenly from the vocabulary. "
    "**Dense perplexity**: of the uncompressed model on the calibration windows, which says how foreign a text is to "
    "it. All are judged on the same held-out windows, in domain."
)
LIMITS = (
    "A small model of one kind of text: what is foreign to it is not what is foreign to a model of general text.",
    "Judged in domain alone: calibration on prose may well help prose.",
)


def measured(study: StudySettings, file: Path | None = None) -> dict[str, Any]:
    """The figures as JSON; the section is made of them alone."""
    home = Bench(study.root, study.overrides, [_without(study)]).home
    taken = home.settings.calibration
    tokenizer = read_tokenizer(home.source.path, trust_remote_code=home.trust)
    calibration_texts = texts(study.root, tokenizer, taken.sequences * taken.length, file)
    entries = {
        (method, text.name, seed): Entry(
            f"{method}-on-{text.name}-{seed}",
            title_of(method),
            recipe(study.papers, method),
            seed=seed,
            overrides=text.overrides,
        )
        for method in METHODS
        for text in calibration_texts
        for seed in range(study.seeds)
    }
    entries[WITHOUT, "", None] = _without(study)
    bench = Bench(study.root, study.overrides, entries.values(), divergence=False)
    dense, results = bench.dense(), judged(bench, entries, study.say)
    without = {None: results[WITHOUT, "", None]}

    def way(method: str, text: str) -> dict[int, Any]:
        return {seed: results[method, text, seed] for seed in range(study.seeds)}

    return {
        "settings": bench.settings(),
        "dense": {"perplexity": dense.perplexity, "mean_loss": float(dense.losses.mean())},
        "texts": [
            _text(text) | {"draws": [_draw(bench, entries[METHODS[0], text.name, seed]) for seed in range(study.seeds)]}
            for text in calibration_texts
        ],
        "methods": [
            {
                "name": method,
                "title": title_of(method),
                "recipe": recipe(study.papers, method),
                "texts": [
                    {
                        "text": text.name,
                        "runs": runs_of(way(method, text.name), dense),
                        "above_own": difference(way(method, text.name), way(method, OWN)),
                        "above_without": difference(way(method, text.name), without),
                    }
                    for text in calibration_texts
                ],
            }
            for method in METHODS
        ],
        "without": {"name": WITHOUT, "title": title_of(WITHOUT), "runs": runs_of(without, dense)},
    }


def _without(study: StudySettings) -> Entry:
    return Entry(f"{WITHOUT}-without-text", title_of(WITHOUT), recipe(study.papers, WITHOUT))


def _text(text: CalibrationText) -> dict[str, Any]:
    # Where the text lies is nothing that it is.
    return {"name": text.name, "title": text.title}


def _draw(bench: Bench, entry: Entry) -> dict[str, Any]:
    """What one seed drew from a text, and how well the dense model predicts it."""
    pipeline = bench.pipeline(entry)
    windows, home = pipeline.calibration, bench.home
    params = EvaluateParams(batch=home.settings.evaluation.batch, trust_remote_code=home.trust)
    judged_on = bench.context.run(evaluate, params, {"model": home.source, "tokens": windows}, "dense on a text")
    return {
        "seed": entry.seed,
        "text_digest": windows.facts["text_digest"],
        "token_digest": windows.facts["token_digest"],
        "dense_perplexity": judged_on.facts["perplexity"],
    }


def section(facts: Mapping[str, Any], plot: str) -> str:
    """Markdown.

    Args:
        plot: file name of the plot beside the page.
    """
    seeds = len(facts["texts"][0]["draws"])
    parts = [
        *head("Study: calibration text from another domain", "domain", facts, seeds),
        bullets(reading(facts)),
        f"![Loss above dense by calibration text]({plot})",
        ABOUT,
        CAPTION,
        _texts_table(facts),
    ]
    for method in facts["methods"]:
        parts += [f"## {method['title']}", _table(method, facts)]
    digests = {
        text["title"]: f"text `{text['draws'][0]['text_digest']}`" for text in facts["texts"] if text["name"] != OWN
    }
    return "\n\n".join([*parts, *tail(LIMITS, facts, digests)])


def reading(facts: Mapping[str, Any]) -> Iterator[str]:
    """Sentences, computed from the figures."""
    titles = {text["name"]: text["title"] for text in facts["texts"]}
    without = facts["without"]["title"]
    for method in facts["methods"]:
        others = [one for one in method["texts"] if one["text"] != OWN]
        differences = "; ".join(
            f"{titles[one['text']]} {signed(one['above_own'])} ({verdict(one['above_own'], 'worse', 'better')})"
            for one in others
        )
        yield f"**{method['title']}**, loss above calibration in domain: {differences}."
    for text in facts["texts"]:
        parts = [
            f"{method['title']} {signed(one['above_without'])} ({verdict(one['above_without'], 'worse', 'better')})"
            for method in facts["methods"]
            for one in method["texts"]
            if one["text"] == text["name"]
        ]
        yield f"**Against {without}, which needs no text**, calibrated on {text['title']}: {', '.join(parts)}."


def _texts_table(facts: Mapping[str, Any]) -> str:
    rows = []
    for text in facts["texts"]:
        values = [draw["dense_perplexity"] for draw in text["draws"]]
        rows.append([text["title"], "overflow" if None in values else spread(values, ".2f")])
    return table(["calibrated on", "dense perplexity"], rows)


def _table(method: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    titles = {text["name"]: text["title"] for text in facts["texts"]}
    rows = [
        [
            titles[one["text"]],
            perplexities(one["runs"]),
            spread(losses(one["runs"]), ".4f"),
            "" if one["text"] == OWN else signed(one["above_own"]),
            "" if one["text"] == OWN else verdict(one["above_own"], "worse", "better"),
            ledger(one["runs"]),
        ]
        for one in method["texts"]
    ]
    without = facts["without"]
    runs = without["runs"]
    rows.append([f"({without['title']}, no text)", perplexities(runs), spread(losses(runs), ".4f"), "", "", "-"])
    header = ["calibrated on", "perplexity", "loss above dense", "above in domain", "verdict", "ledger"]
    return table(header, rows)


def panels(facts: Mapping[str, Any]) -> list[SpreadPanel]:
    """A panel per method."""
    titles = {text["name"]: text["title"] for text in facts["texts"]}
    without = facts["without"]
    return [
        SpreadPanel(
            f"{method['title']}: loss above dense, nats per token",
            evenly(titles.values()),
            {method["title"]: {titles[one["text"]]: losses(one["runs"]) for one in method["texts"]}},
            "calibrated on",
            (without["title"], losses(without["runs"])[0]),
        )
        for method in facts["methods"]
    ]
