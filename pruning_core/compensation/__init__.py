"""Compensation: what the surviving weights do about the removed ones."""

from typing import ClassVar, Protocol

from pruning_core.registry import Registry


class Compensation(Protocol):
    """A compensation: a frozen dataclass registered under its name; its fields are its params.yaml keys."""

    name: ClassVar[str]
    block: int
    damping: float


COMPENSATIONS: Registry[Compensation] = Registry("compensation", "pruning_core.compensation")
