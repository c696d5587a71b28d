"""A small picture of what was done where: one cell per matrix, or per matrix of all experts; blocks left to right."""

from collections.abc import Callable
from html import escape

from pruning_core.checkpoint.layer_facts import LayerFacts
from tasks.records.model_facts import experts_together

CELL, ROW, LABEL, TOP = 44, 24, 150, 46
LIGHT, DARK = (238, 243, 247), (20, 88, 135)


def layer_chart(layers: tuple[LayerFacts, ...]) -> str | None:
    """An SVG with the sparsity and the reconstruction loss of every layer; None when there are no layers."""
    if not layers:
        return None
    layers = experts_together(layers)
    modules = list(dict.fromkeys(layer.place[1] for layer in layers))
    depth = max(layer.place[0] or 0 for layer in layers) + 1
    panel = TOP + ROW * len(modules) + 24
    width = LABEL + CELL * depth + 16
    drawn = [
        _panel("Sparsity (removed fraction)", layers, lambda layer: layer.sparsity, "{:.2f}", modules, 0),
        _panel("Reconstruction loss, 0.5 tr(D H Dᵀ)", layers, lambda layer: layer.loss, "{:.2g}", modules, panel),
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{2 * panel}" '
        f'viewBox="0 0 {width} {2 * panel}" font-family="system-ui, sans-serif" font-size="11">'
        f'<rect width="100%" height="100%" fill="#fff"/>{"".join(drawn)}</svg>'
    )


def _panel(
    title: str,
    layers: tuple[LayerFacts, ...],
    value: Callable[[LayerFacts], float | None],
    form: str,
    modules: list[str],
    top: int,
) -> str:
    known = [(layer, number) for layer in layers if (number := value(layer)) is not None]
    highest = max((number for _, number in known), default=0.0) or 1.0
    parts = [f'<text x="8" y="{top + 22}" font-size="14" font-weight="600">{escape(title)}</text>']
    parts += [
        f'<text x="{LABEL - 8}" y="{top + TOP + ROW * index + 16}" text-anchor="end">{escape(module)}</text>'
        for index, module in enumerate(modules)
    ]
    for block in sorted({layer.place[0] or 0 for layer in layers}):
        parts.append(_text(LABEL + CELL * block, top + TOP - ROW, str(block), "#667"))
    for layer, number in known:
        block, module = layer.place
        x, y = LABEL + CELL * (block or 0), top + TOP + ROW * modules.index(module)
        share = min(max(number / highest, 0.0), 1.0)
        red, green, blue = (round(a + (b - a) * share) for a, b in zip(LIGHT, DARK, strict=True))
        fill = f"rgb({red},{green},{blue})"
        parts.append(f'<rect x="{x}" y="{y}" width="{CELL - 2}" height="{ROW - 2}" rx="3" fill="{fill}"/>')
        parts.append(_text(x, y, form.format(number), "#fff" if share > 0.5 else "#123"))
    return "".join(parts)


def _text(x: int, y: int, text: str, colour: str) -> str:
    x, y = x + CELL // 2 - 1, y + 15
    return f'<text x="{x}" y="{y}" text-anchor="middle" fill="{colour}">{escape(text)}</text>'
