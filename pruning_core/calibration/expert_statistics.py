"""Statistics of the experts of a layer, each from the tokens that were routed to it."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from pruning_core.calibration.few_tokens import too_few
from pruning_core.calibration.staged_forward import InputGroup
from pruning_core.calibration.statistics import LayerStatistics
from pruning_core.model.experts import Routed, Stage


@dataclass
class PooledStatistics(LayerStatistics):
    """Statistics of all tokens of a layer, in the place of those of experts that got too few of their own."""

    routed: dict[str, int] = field(default_factory=dict)
    """Matrix -> how many tokens were routed to its expert."""


class StageStatistics:
    """What the experts of a layer read at one stage, accumulated over micro-batches.

    Which experts will have got too few tokens shows at the end only. So all tokens are counted in (pooled) for every
    expert while it has too few, and what was pooled is dropped once it has enough: experts that need it have then seen
    all tokens, and with many tokens the others stop costing anything soon.

    Args:
        stage: the stage.
        name: its full name.
        full: keep whole Hessians; otherwise only their diagonals.
        pool: whether to pool; without, experts with too few tokens have no statistics at all.
    """

    def __init__(self, stage: Stage, name: str, full: bool, pool: bool = True) -> None:
        self.names = stage.names(name)
        self.in_features = stage.in_features
        self.full = full
        self.alike = stage.alike
        self.pool = pool
        self.experts = [LayerStatistics(self.in_features, full) for _ in self.names]
        self.pooled: dict[int, PooledStatistics] = {}

    def add(self, routed: Routed) -> "StageStatistics":
        """Accumulate one micro-batch and return self."""
        for expert, statistics in enumerate(self.experts):
            inputs = routed.own(expert)
            if len(inputs):
                statistics.add(inputs)
        if self.pool:
            # The first of those that read alike stands for all of them.
            self.pooled = {first: self._pool(first).add(routed.every(first)) for first in self._pools()}
        return self

    def parts(self) -> Iterator[tuple[InputGroup, LayerStatistics]]:
        """Matrices with the statistics of their input; those with too few tokens come last, with PooledStatistics."""
        few = self._pools()
        starved = {expert for members in few.values() for expert in members}
        for expert, names in enumerate(self.names):
            if expert not in starved:
                yield InputGroup(names), self.experts[expert]
        for first, members in few.items():
            pooled = self._pool(first)
            pooled.routed = {name: self.experts[expert].tokens for expert in members for name in self.names[expert]}
            yield InputGroup(tuple(pooled.routed)), pooled

    def _pools(self) -> dict[int, list[int]]:
        """Experts that have too few tokens so far, those that read alike together under a common key."""
        pools: dict[int, list[int]] = {}
        for expert, statistics in enumerate(self.experts):
            if too_few(statistics.tokens, self.in_features):
                pools.setdefault(0 if self.alike else expert, []).append(expert)
        return pools

    def _pool(self, key: int) -> PooledStatistics:
        return self.pooled.get(key) or PooledStatistics(self.in_features, self.full)
