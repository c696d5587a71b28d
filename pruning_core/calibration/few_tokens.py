"""Experts that got too few calibration tokens, and the rules for compressing them."""

from typing import Literal

FewTokens = Literal["layer", "magnitude"]
RULES: tuple[FewTokens, ...] = ("layer", "magnitude")
"""layer: the expert is calibrated on all tokens of its layer, as if each had been routed to it.
magnitude: its smallest weights go, without compensation.
"""
FEWEST = 256
"""Below this many tokens, or a quarter of the inputs, a Hessian says more of these tokens than of the layer."""


def too_few(tokens: int, in_features: int) -> bool:
    """Whether statistics of `tokens` tokens are no base for compressing a matrix of that many inputs."""
    return tokens < max(in_features / 4, FEWEST)
