"""The pages and recipes against the code: what they name exists, and what they show runs."""

import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from source_tree import ROOT

from pruning_core.recovery.iterative_magnitude import IterativeMagnitude
from pruning_core.settings.recipe import SECTIONS, VARIANT_KEYS, parse_recipe, parse_settings
from pruning_core.text import TEXTS
from tasks.workspace.params import read_params

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SHOWN = [ROOT / "README.md", ROOT / "docs" / "guide.md", ROOT / "docs" / "methods.md"]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
SOURCES = [*PAGES, *RECIPES, ROOT / "params.yaml", ROOT / "Makefile"]
SOURCES += [file for file in sorted((ROOT / "models").rglob("*")) if file.suffix in (".md", ".py")]
LONGEST_README = 130

FILE = re.compile(r"(?<![\w/.$-])(?:pruning_core|tasks|flows|benchmarks|tests|recipes|models|docs)/[\w./-]*")
MODULE = re.compile(r"(?<![\w/.-])(?:pruning_core|tasks|flows|benchmarks)(?:\.[A-Za-z_]\w*)+")
ENTRY = re.compile(r"python -m ((?:pruning_core|tasks|flows|benchmarks)[\w.]*)")
LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(#[^)\s]*)?\)")
ELSEWHERE = {"pruning_core/saliency/tempered.py", "models/stories260K-llama"}
"""What the reader is to write, and a model that a page was measured on and that does not ship."""


PLACEHOLDER = re.compile(r"[/.](?:KIND|NAME|PAGE)\b.*")
"""What stands for any name; what it stands in has to be there."""


def missing_files(text: str) -> set[str]:
    named = {PLACEHOLDER.sub("", found.rstrip(".-/")) for found in FILE.findall(text)}
    return {name for name in named - ELSEWHERE if not (ROOT / name).exists()}


def missing_modules(text: str) -> set[str]:
    named = {
        PLACEHOLDER.sub("", found) for found in MODULE.findall(text) if not found.endswith((".md", ".json", ".py"))
    }
    return {name for name in named if not is_there(name)}


def is_there(name: str) -> bool:
    """Whether it is a module of ours, or something that one of them defines."""
    path = ROOT / name.replace(".", "/")
    if path.is_dir() or path.with_suffix(".py").is_file():
        return True
    owner, _, attribute = name.rpartition(".")
    return "." in owner and is_there(owner) and hasattr(importlib.import_module(owner), attribute)


def missing_entries(text: str) -> set[str]:
    entries = {name for name in ENTRY.findall(text) if not PLACEHOLDER.search(name)}
    return {name for name in entries if not runs(ROOT / name.replace(".", "/"))}


def runs(path: Path) -> bool:
    """Whether `python -m` starts something there: a package's entry, or a module with one of its own."""
    module = path.with_suffix(".py")
    return (path / "__main__.py").is_file() or (module.is_file() and "__main__" in module.read_text())


def dead_links(page: Path) -> set[str]:
    dead = set()
    for path, anchor in LINK.findall(page.read_text()):
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor[1:] not in anchors(target)):
            dead.add(path + anchor)
    return dead


def anchors(page: Path) -> set[str]:
    """What headings of a page are called in links, as GitHub makes it."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_files_modules_and_commands_of_ours_that_a_page_names_exist(file: Path):
    text = file.read_text()
    assert missing_files(text) | missing_modules(text) | missing_entries(text) == set()


def test_what_does_not_exist_is_found():
    text = "`pruning_core/decoder.py`, `tasks.nothing`, pruning_core.source.load_nothing, python -m benchmarks.ladder"
    assert missing_files(text) == {"pruning_core/decoder.py"}
    assert missing_modules(text) == {"tasks.nothing", "pruning_core.source.load_nothing", "benchmarks.ladder"}
    assert missing_entries(text + " python -m pruning_core.source") == {"benchmarks.ladder", "pruning_core.source"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_pages_and_headings_that_exist(page: Path):
    assert dead_links(page) == set()


def test_the_readme_is_read_in_two_minutes():
    assert len(PAGES[0].read_text().splitlines()) <= LONGEST_README


def yaml_blocks(page: Path) -> Iterator[tuple[int, str]]:
    """(line, text) of each block of settings on a page."""
    text = page.read_text()
    for found in re.finditer(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        yield text[: found.start()].count("\n") + 2, found[1]


def recipes_in(mapping: dict[str, Any]) -> dict[str, Any]:
    """The variants of a block by name: a section of them, single ones, or the inside of one; parts of one are none."""
    if "variants" in mapping and isinstance(mapping["variants"], dict):
        return mapping["variants"]
    if mapping and all(isinstance(one, dict) and {*one} <= {*VARIANT_KEYS} for one in mapping.values()):
        return mapping
    whole = {"structured", "recovery"} & {*mapping} or {"saliency", "pattern"} <= {*mapping}
    return {"shown": mapping} if whole and {*mapping} <= {*VARIANT_KEYS} else {}


def check(name: str, spec: dict[str, Any]) -> None:
    """InputError for a recipe that no run would accept, with as much training text as it asks for."""
    recovering = parse_recipe(name, spec).recovery
    if recovering is None:
        return
    steps = recovering.method.total(recovering.data.sequences)
    if isinstance(recovering.method, IterativeMagnitude):
        shortest = steps // recovering.method.rounds
        assert recovering.method.warmup_steps(shortest) < shortest


BLOCKS = {f"{page.name}:{line}": text for page in SHOWN for line, text in yaml_blocks(page)}
"""Place -> a block of settings."""


def loaded(text: str, folder: Path) -> dict[str, Any]:
    """A block as the project reads it."""
    (folder / "block.yaml").write_text(text)
    return read_params(folder / "block.yaml")


def completed(block: dict[str, Any]) -> dict[str, Any]:
    """A whole params.yaml that holds the block; what the block leaves out is the project's own, with tasks."""
    whole = read_params(ROOT / "params.yaml", ["evaluation.tasks=[{name: domain, items: 500}]"])
    parts = {name: whole[name] | block[name] for name in ("calibration", "evaluation") if name in block}
    return whole | block | parts


@pytest.mark.parametrize("place", BLOCKS)
def test_settings_that_a_page_shows_are_accepted(place: str, tmp_path: Path):
    if BLOCKS[place].startswith("text:"):
        for line in BLOCKS[place].splitlines():
            TEXTS.build(yaml.safe_load(line)["text"])
        return
    mapping = loaded(BLOCKS[place], tmp_path)
    for name, spec in recipes_in(mapping).items():
        check(name, spec)
    if {*mapping} <= {*SECTIONS}:
        parse_settings(completed(mapping))


@pytest.mark.parametrize("file", [*RECIPES, ROOT / "params.yaml"], ids=lambda file: file.stem)
def test_every_recipe_can_run(file: Path):
    settings = read_params(ROOT / "params.yaml", [f"@{file}"])
    parse_settings(settings)
    for name, spec in settings["variants"].items():
        check(name, spec)
