"""The two ways in which a run can fail on purpose."""


class InputError(ValueError):
    """The user's input is wrong: one sentence says what is wrong, what is allowed and what to do.

    The command line prints the sentence and exits with code 2.
    """


class ComputationError(RuntimeError):
    """The computation cannot go on: a broken invariant, NaN, or a matrix that cannot be factored.

    The command line prints the sentence and exits with code 1; what was already stored stays.
    """
