"""The interface of all workers: work is submitted, and its future is waited for."""

from collections.abc import Callable
from typing import Any, Protocol


class Future(Protocol):
    """The result of submitted work."""

    def result(self) -> Any:
        """Wait for it; the exception of the work is raised."""
        ...


class Submit(Protocol):
    """submit(function, *arguments) -> Future; the function is found by its name where it runs."""

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> Future: ...
