import pytest

from tasks.progress import current, progress, reporting


class Notes:
    def __init__(self):
        self.seen = []

    def start(self, label, total):
        self.seen.append((label, total))
        return lambda done: self.seen.append(done)


@pytest.mark.parametrize(
    ("units", "shown"),
    [
        pytest.param([(1, 3), (3, 3)], [("blocks", 3), 1, 3], id="one bar under its label"),
        pytest.param([(2, 2), (1, 5)], [("blocks", 2), 2, ("blocks", 5), 1], id="a new total begins a new bar"),
        pytest.param(
            [(2, 2), (2, 2), (1, 2)],
            [("blocks", 2), 2, ("blocks", 2), 2, ("blocks", 2), 1],
            id="a call after the last unit begins a new bar",
        ),
    ],
)
def test_a_core_function_reports_to_the_sink_under_its_label(units, shown):
    notes = Notes()
    with reporting(notes):
        report = progress("blocks")
        for done, total in units:
            report(done, total)
    assert notes.seen == shown


def test_outside_of_reporting_nothing_is_shown_and_nothing_fails():
    notes = Notes()
    with reporting(notes):
        pass
    current().start("x", 1)(1)
    progress("x")(1, 1)
    assert notes.seen == []
