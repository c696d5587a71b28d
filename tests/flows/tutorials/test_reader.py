"""The reader notices when a page and the product disagree, and leaves nothing on a page out."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import reader
from commands import Finished
from reader import agrees, blocks, follow

TABLE = "name  ppl  made\nwanda-50  8.58  5 of 5\n...\nreport  .../page.html\n"


@pytest.mark.parametrize(
    ("printed", "same"),
    [
        ("name ppl made\nwanda-50 8.58 5 of 5\nreport /a/page.html\n", True),
        ("name  ppl  made  \n\nwanda-50   8.9  5 of 5\nmore\nand more\nreport   /b/page.html", True),
        ("name ppl made\nwanda-50 11.2 5 of 5\nreport /a/page.html\n", False),
        ("name ppl made\nwanda-50 8.58 4 of 5\nreport /a/page.html\n", False),
        ("name ppl made\nwanda-60 8.58 5 of 5\nreport /a/page.html\n", False),
        ("name ppl made\nwanda-50 eight 5 of 5\nreport /a/page.html\n", False),
        ("name ppl made\nwanda-50 8.58 5 of 5\nreport /a/page.html\nTraceback\n", False),
        ("name ppl made\nwanda-50 8.58 5 of 5\n", False),
    ],
)
def test_what_may_differ_is_dots_and_a_quarter_of_a_decimal_fraction(printed: str, same: bool):
    assert agrees(TABLE, printed) is same


@pytest.mark.parametrize(
    ("printed", "same"), [("+0.017 ± 0.004", True), ("+0.034 ± 0.004", False), ("-0.023 ± 0.004", False)]
)
def test_what_is_nearly_nothing_may_differ_by_a_hundredth(printed: str, same: bool):
    assert agrees("+0.023 ± 0.004\n", f"{printed}\n") is same


@pytest.fixture
def page(tmp_path: Path, monkeypatch) -> Callable[[str], list]:
    """page(text): a page of that text, the only one there is."""
    monkeypatch.setattr(reader, "PAGES", tmp_path)
    return lambda text: (tmp_path / "page.md").write_text(text)


@pytest.mark.parametrize(
    "text",
    ["```python\nprint(1)\n```\n", "```\nespalier up\n```\n", "```sh page.sh\n:\n```\n", "A\n```sh\nespalier up\n"],
)
def test_a_block_that_nobody_would_execute_is_an_error(page, text: str):
    page(text)
    with pytest.raises(AssertionError, match=r"page\.md"):
        list(blocks("page.md"))


def followed(folder: Path, without: str = "") -> list[tuple[str, ...]]:
    """The espalier commands of the page, in order."""
    begun: list[tuple[str, ...]] = []

    def warm(root: Path, *arguments: str) -> Finished:
        begun.append(arguments)
        return Finished(0, f"{(root / 'own.txt').read_text()} {len(begun)}\n", "")

    follow(folder, dict(os.environ), warm, "page.md", without=without)
    return begun


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "folder").mkdir()
    return tmp_path / "folder"


def test_files_are_written_and_commands_run_in_order(page, folder: Path):
    page(
        "```txt own.txt\nhello\n```\n```sh\nespalier plan a \\\n  --json\nespalier explain 'b c'\n```\n"
        "```text\nhello\n1\nhello\n2\n```\n```sh\ncat own.txt | tr a-z A-Z\n```\n```text\nHELLO\n```\n"
    )
    assert followed(folder) == [("plan", "a", "--json"), ("explain", "b c")]


@pytest.mark.parametrize(
    "text",
    ["```sh\necho one\n```\n```text\ntwo\n```\n", "```sh\nfalse\necho on\n```\n", "```text\nprinted by none\n```\n"],
)
def test_what_does_not_come_as_the_page_says_is_an_error(page, folder: Path, text: str):
    page(text)
    with pytest.raises(AssertionError, match=r"page\.md:\d"):
        followed(folder)


def test_a_block_that_needs_what_is_not_installed_is_left_out_with_what_it_prints(page, folder: Path):
    page("```sh\ntouch made # dask\n```\n```text\nnothing of the kind\n```\n```sh\necho on\n```\n```text\non\n```\n")
    assert followed(folder, without="dask") == [] and not (folder / "made").exists()
