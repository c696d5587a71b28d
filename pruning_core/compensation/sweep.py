"""The column sweep: every removed weight is made up for by the columns to its right."""

from typing import Annotated

from pydantic import Field

from pruning_core.compensation import COMPENSATIONS


@COMPENSATIONS.register("sweep")
class ColumnSweep:
    """SparseGPT's and GPTQ's update (arXiv:2301.00774, algorithm 1; arXiv:2210.17323, algorithm 1).

    block: columns per lazy update, and columns that compete in scope `block`.
    damping: fraction of the mean diagonal added to the diagonal of H.
    """

    block: Annotated[int, Field(ge=1)] = 128
    damping: Annotated[float, Field(gt=0, le=1)] = 0.01
