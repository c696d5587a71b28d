"""What task runners and process pools have in common: work is submitted, a future is waited for."""

from collections.abc import Callable
from typing import Any, Protocol


class Future(Protocol):
    """A result that comes."""

    def result(self) -> Any:
        """Wait for it; the exception of the work is raised."""
        ...


class Submit(Protocol):
    """submit(function, *arguments) -> Future; the function is found by its name where it runs."""

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> Future: ...
