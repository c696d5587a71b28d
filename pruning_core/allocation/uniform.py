"""The same share of every matrix."""

from pruning_core.allocation import ALLOCATIONS, Request
from pruning_core.compress.shares import Shares, Unit


@ALLOCATIONS.register("uniform")
class Uniform:
    """Every matrix loses the same fraction; what rounding leaves over is spread so that the whole is met exactly."""

    needs = frozenset[str]()
    meets_budget = True
    sensitivity_spec = None

    def check(self, unit: Unit, target: float) -> None:
        """Any target will do."""

    def shares(self, request: Request) -> Shares:
        return request.shares_near([request.target] * len(request.matrices))
