from tasks.progress import current, progress, reporting


class Notes:
    def __init__(self):
        self.seen = []

    def start(self, label, total):
        self.seen.append((label, total))
        return lambda done: self.seen.append(done)


def test_a_core_function_reports_to_the_sink_under_its_label():
    notes = Notes()
    with reporting(notes):
        report = progress("blocks")
        report(1, 3)
        report(3, 3)
    assert notes.seen == [("blocks", 3), 1, 3]


def test_a_new_total_begins_a_new_bar():
    notes = Notes()
    with reporting(notes):
        report = progress("blocks")
        report(2, 2)
        report(1, 5)
    assert notes.seen == [("blocks", 2), 2, ("blocks", 5), 1]


def test_a_call_after_the_last_unit_begins_a_new_bar():
    notes = Notes()
    with reporting(notes):
        report = progress("blocks")
        for done in (2, 2, 1):
            report(done, 2)
    assert notes.seen == [("blocks", 2), 2, ("blocks", 2), 2, ("blocks", 2), 1]


def test_outside_of_reporting_nothing_is_shown_and_nothing_fails():
    notes = Notes()
    with reporting(notes):
        pass
    current().start("x", 1)(1)
    progress("x")(1, 1)
    assert notes.seen == []
