"""How long functions tell their caller how far they are: the core itself shows nothing."""

from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Called as progress(done, total) after each unit of work."""


def ignore_progress(done: int, total: int) -> None:
    """Show nothing."""
