"""Params that many steps share: how a step runs a model."""

from dataclasses import dataclass

from pruning_core.settings.compute import Running


@dataclass(frozen=True, kw_only=True)
class OnDevice:
    """A model runs on `device` with weights and hidden states of `dtype`."""

    trust_remote_code: bool
    device: str
    dtype: str

    @property
    def running(self) -> Running:
        """Both as torch has them."""
        return Running(self.device, self.dtype)


@dataclass(frozen=True, kw_only=True)
class Forwards(OnDevice):
    """Blocks of it run on calibration windows.

    Args:
        batch: windows per forward.
        states: where the hidden states between blocks are kept, memory or mapped.
        shards: parts that the windows are summed in, where there are more than one.
    """

    batch: int
    states: str
    shards: int | None = None
