"""The physical floor: the least arithmetic that exact compression needs, at the rate this machine multiplies."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from transformers import PretrainedConfig


@dataclass(frozen=True)
class Work:
    """Floating point operations by phase; a multiplication and an addition count as two."""

    products: float
    """The linear layers of one forward."""
    attention: float
    """Scores and weighted values, each token with itself and those before it."""
    statistics: float
    """One triangle of X^T X per distinct input, or only its diagonal."""
    factors: float
    """The inverse Cholesky factor per distinct input, without the detour over the inverse: 2/3 c^3."""
    sweep: float
    """Each column's error, and its way into all columns to the right."""

    @property
    def total(self) -> float:
        return sum(asdict(self).values())

    def facts(self) -> dict[str, float]:
        """As JSON, with the total."""
        return asdict(self) | {"total": self.total}


def input_groups(config: PretrainedConfig) -> list[tuple[int, int]]:
    """(rows, columns) of the linear layers of a Llama block, those that read the same input stacked."""
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    queries, keys = config.num_attention_heads * head, config.num_key_value_heads * head
    width, inner = config.hidden_size, config.intermediate_size
    return [(queries + 2 * keys, width), (width, queries), (2 * inner, width), (width, inner)]


def minimum_work(config: PretrainedConfig, sequences: int, length: int, needs: str) -> Work:
    """What compressing every linear layer of a Llama must at least compute, true-sequentially.

    One forward over the calibration tokens suffices, because the tokens can wait in front of each group of layers
    until it is compressed. Everything that is not a product of matrices (norms, softmax, choice of weights, reading
    and writing) counts as free.

    Args:
        needs: "full" for methods that sweep, "diagonal" for Wanda.
    """
    tokens = sequences * length
    groups = input_groups(config)
    queries = groups[1][1]
    full = needs == "full"
    block = Work(
        products=sum(2 * tokens * rows * columns for rows, columns in groups),
        attention=2 * tokens * (length + 1) * queries,
        statistics=sum(tokens * columns * (columns + 1) if full else 2 * tokens * columns for _, columns in groups),
        factors=sum(2 / 3 * columns**3 for _, columns in groups) if full else 0.0,
        sweep=sum(rows * columns**2 for rows, columns in groups) if full else 0.0,
    )
    return Work(*(config.num_hidden_layers * value for value in asdict(block).values()))


def product_shapes(config: PretrainedConfig, tokens: int) -> list[tuple[int, int, int]]:
    """(m, k, n) of products that the rate is taken from: those of the model on its own tokens, and a square one."""
    rows = min(tokens, 4096)
    return [(rows, config.hidden_size, config.intermediate_size), (rows, config.intermediate_size, config.hidden_size)]


SQUARE = (2048, 2048, 2048)


def multiplication_rate(shapes: Sequence[tuple[int, int, int]], seconds: float) -> dict[str, float]:
    """Float32 operations per second of [m, k] x [k, n] for each shape: the median over at least `seconds` of them."""
    return {"x".join(map(str, shape)): _rate(shape, seconds) for shape in shapes}


def _rate(shape: tuple[int, int, int], seconds: float) -> float:
    m, k, n = shape
    draw = torch.Generator().manual_seed(0)
    left, right = torch.randn(m, k, generator=draw), torch.randn(k, n, generator=draw)
    out = torch.empty(m, n)
    torch.mm(left, right, out=out)
    taken: list[float] = []
    while sum(taken) < seconds or len(taken) < 3:
        start = time.perf_counter()
        torch.mm(left, right, out=out)
        taken.append(time.perf_counter() - start)
    return 2 * m * k * n / sorted(taken)[len(taken) // 2]
