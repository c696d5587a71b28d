"""The layers of a variant as people look at them: of a mixture of experts, one matrix of all experts at a time."""

import re

from tasks.model_facts import Layer

EXPERT = re.compile(r"(?<=\.experts)\.\d+(?=\.)")


def experts_together(layers: tuple[Layer, ...]) -> tuple[Layer, ...]:
    """The same matrix of all experts of a block as one layer, "....experts.up_proj": a model may have thousands.

    Rows, zeros and losses are added up; what one expert lacks the sum lacks.
    """
    kinds: dict[str, list[Layer]] = {}
    for layer in layers:
        kinds.setdefault(EXPERT.sub("", layer.name), []).append(layer)
    return tuple(_sum(name, members) if len(members) > 1 else members[0] for name, members in kinds.items())


def _sum(name: str, layers: list[Layer]) -> Layer:
    zeros, losses = [layer.zeros for layer in layers], [layer.loss for layer in layers]
    return Layer(
        name=name,
        rows=sum(layer.rows for layer in layers),
        columns=layers[0].columns,
        zeros=None if None in zeros else sum(zeros),
        loss=None if None in losses else sum(losses),
    )
