"""The two ways in which a run can fail on purpose."""

from typing import TypeVar

T = TypeVar("T")


class InputError(ValueError):
    """The user's input is wrong: one sentence says what is wrong, what is allowed and what to do.

    The command line prints the sentence and exits with code 2.
    """


class ComputationError(RuntimeError):
    """The computation cannot go on: a broken invariant, NaN, or a matrix that cannot be factored.

    The command line prints the sentence and exits with code 1; what was already stored stays.
    """


def required(value: T | None, what: str) -> T:
    """`value`, which the caller has to give for this work.

    Raises:
        ComputationError: it is None; names it by `what`.
    """
    if value is None:
        raise ComputationError(f"{what} is missing where it is needed; this is an error of the program")
    return value
