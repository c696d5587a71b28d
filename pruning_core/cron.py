"""Cron expressions of five fields: minute, hour, day of the month, month, day of the week."""

import re
from dataclasses import dataclass

MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
RANGE = re.compile(r"(\*|\w+)(?:-(\w+))?(?:/(\d+))?")


@dataclass(frozen=True)
class _Field:
    """What one place may hold; `names` stand for `lowest`, `lowest` + 1, ..."""

    name: str
    lowest: int
    highest: int
    names: tuple[str, ...] = ()

    def check(self, text: str) -> None:
        """Raise ValueError where `text` is not a list of numbers, ranges and steps within the bounds."""
        for part in text.split(","):
            found = RANGE.fullmatch(part)
            if found is None:
                raise ValueError(
                    f"the {self.name} {text!r} is not *, a number, a range such as 1-5 or a step such as */2"
                )
            first, last, step = found.groups()
            if first == "*" and last is not None:
                raise ValueError(f"the {self.name} {text!r} begins a range with *; write a number")
            bounds = [self._number(value) for value in (first, last) if value not in (None, "*")]
            if bounds != sorted(bounds):
                raise ValueError(f"the {self.name} {text!r} is a range that ends before it begins")
            if step is not None and (int(step) == 0 or (first != "*" and last is None)):
                raise ValueError(f"the {self.name} {text!r} has a step of nothing; write for example */5 or 10-50/5")

    def _number(self, text: str) -> int:
        lower = text.lower()
        value = self.names.index(lower) + self.lowest if lower in self.names else int(text) if text.isdecimal() else -1
        if not self.lowest <= value <= self.highest:
            raise ValueError(f"the {self.name} is a number from {self.lowest} to {self.highest}, not {text!r}")
        return value


FIELDS = (
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _Field("day of the month", 1, 31),
    _Field("month", 1, 12, MONTHS),
    # 0 and 7 are both Sunday.
    _Field("day of the week", 0, 7, DAYS),
)


def check_cron(text: str) -> str:
    """`text`, when it is five fields of `*`, numbers, names of months and days, ranges, lists and steps.

    Raises:
        ValueError: it is not; says which field.
    """
    parts = text.split()
    if len(parts) != len(FIELDS):
        raise ValueError(
            f"has {len(parts)} fields, a cron expression has five: minute, hour, day of the month, month, day of the "
            "week, such as 0 3 * * *"
        )
    for field, part in zip(FIELDS, parts, strict=True):
        field.check(part)
    return text
