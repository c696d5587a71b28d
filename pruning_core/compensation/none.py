"""No compensation: the survivors stay as they are."""

from typing import Annotated

from pydantic import Field

from pruning_core.compensation import COMPENSATIONS


@COMPENSATIONS.register("none")
class NoCompensation:
    """Wanda and magnitude pruning.

    block: columns that compete in scope `block`.
    damping: fraction of the mean diagonal added to H where a saliency or the reported loss needs it.
    """

    block: Annotated[int, Field(ge=1)] = 128
    damping: Annotated[float, Field(gt=0, le=1)] = 0.01
