"""How many floating point operations a run takes, by kind; a multiplication and an addition count as two."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pruning_core.calibration.few_tokens import too_few
from pruning_core.calibration.statistics import NARROWEST, STRIPS
from pruning_core.plan.disk import level_count
from pruning_core.plan.model_shape import Block, Group, ModelShape
from pruning_core.sensitivity import SENSITIVITIES
from pruning_core.sensitivity.fisher import Fisher
from pruning_core.sensitivity.hutchinson import Hutchinson
from pruning_core.sensitivity.leave_one_out import LeaveOneOut
from pruning_core.settings.recipe import Recipe


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
    least_squares: float = 0.0
    """Moments and errors of refitted matrices, in float64."""
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


def work_of(model: ModelShape, recipe: Recipe, sequences: int) -> Work:
    """The arithmetic of compressing the matrices, the statistics of `propagate: dense` and the allocation included."""
    tokens = sequences * model.length
    compression = sum((_block(block, recipe, model, tokens) for block in model.blocks), Work())
    return compression + allocation_work(model, recipe, sequences)


def allocation_work(model: ModelShape, recipe: Recipe, sequences: int) -> Work:
    """What finding out how much goes where takes: forwards, gradients, dense statistics, and every level's solve."""
    tokens, needs = sequences * model.length, recipe.allocation_needs
    through = sum((forward(block, None) * block.count for block in model.blocks), Work())
    work = through * (_passes(model, recipe, sequences) / model.batch)
    shared = recipe.calibrates and recipe.propagate == "dense"
    for block in model.blocks:
        if "statistics" in needs and not shared:
            work += forward(block, None) * (tokens / (model.batch * model.length) * block.count)
            work += sum((_statistics(g, True, True, model, tokens) for g in block.groups), Work()) * block.count
        solved = sum((_solving(group, recipe) for group in block.groups), Work())
        work += solved * (block.count * level_count(model, recipe))
    return work


def _passes(model: ModelShape, recipe: Recipe, sequences: int) -> float:
    """Forwards of one sequence through all blocks that sensitivities and a search take; a backward counts as two."""
    specs = {str(part.sensitivity_spec): part.sensitivity_spec for part in recipe.allocation_parts}
    passes = sum(_sensitivity_passes(model, spec, sequences) for spec in specs.values() if spec is not None)
    return passes + sum(
        _search_tokens(part, model.matrices) / model.length
        for part in recipe.allocation_parts
        if "search" in part.needs
    )


def _search_tokens(search: Any, matrices: int) -> float:
    """Tokens that a search judges candidates on at most; saved prefixes are not counted."""
    entering = [search.offspring, *search.survivors]
    stages = [candidates * tokens for candidates, tokens in zip(entering, search.tokens, strict=False)]
    # The parent is judged anew on the last stage's text.
    each = sum(stages) + search.tokens[-1] + search.validation * search.length
    # Rounds after the first look at the levels on either side.
    probed = search.probes and search.probes + 2 * (search.probe_rounds - 1)
    start = search.population * search.validation * search.length + probed * matrices * search.probe_tokens
    return float(search.generations * each + start)


def _sensitivity_passes(model: ModelShape, spec: Mapping[str, Any], sequences: int) -> float:
    measure = SENSITIVITIES.build(spec)
    count = min(getattr(measure, "sequences", None) or sequences, sequences)
    if isinstance(measure, Fisher):
        return 3.0 * count
    if isinstance(measure, Hutchinson):
        # Two gradients a probe, or one that is differentiated again.
        return 6.0 if measure.form == "mixgpt_code" else 6.0 * count * measure.max_probes
    if isinstance(measure, LeaveOneOut):
        # Each matrix, or each block, from its own block on: half of the model on average.
        pruned = model.matrices if measure.granularity == "matrix" else sum(block.count for block in model.blocks)
        return count * (1 + pruned / 2)
    return 0.0


def _block(block: Block, recipe: Recipe, model: ModelShape, tokens: int) -> Work:
    solved = sum((_solving(group, recipe) for group in block.groups), Work())
    if not recipe.calibrates:
        return solved * block.count
    batches = tokens / (model.batch * model.length)
    whole = forward(block, None) * batches
    short = forward(block, len(block.groups)) * batches
    # The last block's output is nobody's input.
    final = 1 if block.last else 0
    if recipe.propagate == "blockwise":
        forwards = short * block.count + whole * (block.count - final)
    else:
        forwards = whole * (block.count - final) + short * final
    full = recipe.matrix_method.statistics == "full" or recipe.propagate == "dense"
    pool = recipe.matrix_method.few_tokens == "layer"
    collected = sum((_statistics(group, full, pool, model, tokens) for group in block.groups), Work())
    return forwards + (collected + solved) * block.count


def forward(block: Block, stops: int | None) -> Work:
    """A micro-batch through a block, up to the group `stops` where given."""
    return Work(block.total("products", stops), block.total("attention", stops), moved=block.total("moved", stops))


def _statistics(group: Group, full: bool, pool: bool, model: ModelShape, tokens: int) -> Work:
    each = triangle(group.columns) if full else group.columns
    separate = Work(statistics=2 * tokens * group.tokens * group.experts * each)
    batch = model.batch * model.length
    shared = pooled_tokens(group, batch, tokens) if pool and group.experts > 1 else 0
    if not shared:
        return separate
    if group.alike:
        return separate + Work(statistics=2 * shared * each)
    # Each expert runs on all tokens of the layer to see what it would read: gate and up, each columns x width.
    computed = Work(products=2 * 2 * shared * model.width * group.columns, statistics=2 * shared * each)
    return separate + computed * group.experts


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
    if recipe.matrix_method.statistics != "full":
        return Work()
    factor = 2 / 3 * group.columns**3
    operations = sum(group.rows) * group.columns**2
    if not recipe.matrix_method.compensates:
        # The loss is told by one product with the Hessian.
        return Work(factor=factor, sweep=2 * operations) * group.experts
    return Work(factor=factor, sweep=operations) * group.experts
