"""An export that no variant of its recipe could have, refused before that variant is made."""

from typing import Any

from flows.planning import model_directory
from pruning_core.export import FORMATS
from pruning_core.foreseeing import foreseen
from pruning_core.recipe import BASELINE
from tasks.workspace import Workspace


def require_expressible(variant: str, format: dict[str, Any], overrides: list[str] | None) -> None:
    """Compute nothing and write nothing.

    Args:
        format: {name, options}.

    Raises:
        InputError: the format cannot express what the recipe makes of the model.
    """
    workspace = Workspace.open(None, overrides)
    recipe = None if variant == BASELINE else workspace.settings.recipe(variant)
    trust = workspace.settings.trust_remote_code
    FORMATS.build(format, "format").foresee(foreseen(model_directory(workspace), recipe, trust_remote_code=trust))
