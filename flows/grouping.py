"""`espalier groups`: which channels and heads of the model hang together, from its configuration alone."""

from typing import Any

import torch

from flows.planning import model_directory
from pruning_core.model_files import read_config
from pruning_core.plan.skeleton import Skeleton
from pruning_core.structured.groups import sites_of
from pruning_core.structured.plan import groups_table
from pruning_core.structured.settings import DEFAULT_FAMILIES
from tasks.workspace import Workspace


def groups_of_model(families: list[str] | None, overrides: list[str] | None) -> dict[str, Any]:
    """The coupled groups of each site, as rows for machines and as a table for people.

    Raises:
        InputError: an unknown family, or a model whose channels and heads are not known.
    """
    workspace = Workspace.open(None, overrides)
    trust = workspace.settings.trust_remote_code
    skeleton = Skeleton(read_config(model_directory(workspace), trust_remote_code=trust), torch.float32, trust)
    sites = sites_of(skeleton.blocks, skeleton.block_prefix, families or DEFAULT_FAMILIES)
    rows = [
        {"site": site.name, "family": site.family, "groups": site.groups, "parameters_each": site.group_size}
        for site in sites
    ]
    return {"sites": rows, "table": groups_table(sites)}
