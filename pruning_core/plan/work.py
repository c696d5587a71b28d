"""How many floating point operations a run takes, by kind; a multiplication and an addition count as two."""

from dataclasses import asdict, dataclass

from pruning_core.few_tokens import too_few
from pruning_core.plan.anatomy import Anatomy, Block, Group
from pruning_core.recipe import Recipe
from pruning_core.statistics import NARROWEST, STRIPS


@dataclass(frozen=True)
class Work:
    """Floating point operations, and the bytes that the forward passes write."""

    products: float = 0.0
    """Linear layers."""
    attention: float = 0.0
    """Scores and weighted values."""
    statistics: float = 0.0
    """Sums of x x^T as they are computed, a bit more than one triangle; or their diagonals."""
    factor: float = 0.0
    """Cholesky factor and its inverse: 2/3 c^3 for c inputs."""
    sweep: float = 0.0
    """Errors and updates of all columns to the right: r c^2 for r rows."""
    moved: float = 0.0
    """Bytes of intermediate results."""

    def __add__(self, other: "Work") -> "Work":
        return Work(**{name: value + getattr(other, name) for name, value in asdict(self).items()})

    def __mul__(self, times: float) -> "Work":
        return Work(**{name: times * value for name, value in asdict(self).items()})

    @property
    def operations(self) -> float:
        """All floating point operations."""
        return sum(self.by_kind().values())

    def by_kind(self) -> dict[str, float]:
        """Floating point operations by kind."""
        return {name: value for name, value in asdict(self).items() if name != "moved"}


def work_of(model: Anatomy, recipe: Recipe, sequences: int) -> Work:
    """The arithmetic of one variant, the statistics of `propagate: dense` included."""
    tokens = sequences * model.length
    return sum((_block(block, recipe, model, tokens) for block in model.blocks), Work())


def _block(block: Block, recipe: Recipe, model: Anatomy, tokens: int) -> Work:
    solved = sum((_solving(group, recipe) for group in block.groups), Work())
    if not recipe.calibrates:
        return solved * block.count
    batches = tokens / (model.batch * model.length)
    whole = _forward(block, None) * batches
    short = _forward(block, len(block.groups)) * batches
    # The last block's output is nobody's input.
    final = 1 if block.last else 0
    if recipe.propagate == "blockwise":
        forwards = short * block.count + whole * (block.count - final)
    else:
        forwards = whole * (block.count - final) + short * final
    full = recipe.method.statistics == "full" or recipe.propagate == "dense"
    pool = recipe.method.few_tokens == "layer"
    collected = sum((_statistics(group, full, pool, model, tokens) for group in block.groups), Work())
    return forwards + (collected + solved) * block.count


def _forward(block: Block, stops: int | None) -> Work:
    return Work(block.total("products", stops), block.total("attention", stops), moved=block.total("moved", stops))


def _statistics(group: Group, full: bool, pool: bool, model: Anatomy, tokens: int) -> Work:
    each = triangle(group.columns) if full else group.columns
    own = Work(statistics=2 * tokens * group.tokens * group.experts * each)
    batch = model.batch * model.length
    shared = pooled_tokens(group, batch, tokens) if pool and group.experts > 1 else 0
    if not shared:
        return own
    if group.alike:
        return own + Work(statistics=2 * shared * each)
    # Each expert runs on all tokens of the layer to see what it would read: gate and up, each columns x width.
    computed = Work(products=2 * 2 * shared * model.width * group.columns, statistics=2 * shared * each)
    return own + computed * group.experts


def pooled_tokens(group: Group, batch: int, tokens: int) -> int:
    """Tokens of the layer that are counted in for experts before they have enough of their own."""
    seen = 0
    while seen < tokens and too_few(int(seen * group.tokens), group.columns):
        seen += batch
    return min(seen, tokens)


def triangle(columns: int) -> int:
    """Entries of a Hessian that are computed: strips of rows from the diagonal on."""
    width = max(NARROWEST, -(-columns // STRIPS))
    return sum(min(width, columns - start) * (columns - start) for start in range(0, columns, width))


def _solving(group: Group, recipe: Recipe) -> Work:
    if recipe.method.statistics != "full":
        return Work()
    factor = 2 / 3 * group.columns**3
    sweep = sum(group.rows) * group.columns**2
    if not recipe.method.compensates:
        # The loss is told by one product with the Hessian.
        return Work(factor=factor, sweep=2 * sweep) * group.experts
    return Work(factor=factor, sweep=sweep) * group.experts
