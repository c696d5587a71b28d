"""The page of the experiment in MLflow, as the tags that its UI reads."""

import json

from tasks.run_contents import HEADLINE
from tasks.tracking_index import VIEW


def experiment_tags() -> dict[str, str]:
    """What the experiment's page shows, and a saved view of its run list that reads as a comparison."""
    shown = {f"metrics.`{name}`": name for name in HEADLINE}
    shown |= {f"params.`{name}`": name for name in ("saliency", "pattern", "sparsity", "compensation")}
    view = {
        "selectedColumns": list(shown),
        "columnOrder": list(shown),
        # Pixels: room for the name and the sorting arrow.
        "columnWidths": {column: 8 * len(name) + 36 for column, name in shown.items()},
        "orderByKey": "metrics.`perplexity`",
        "orderByAsc": True,
    }
    return {
        "mlflow.experimentKind": "custom_model_development",
        "mlflow.note.content": "One run per variant; the dense baseline has the tag `role=baseline`. Runs with the tag "
        "`kind=comparison` have the report of several variants under Artifacts.",
        f"mlflow.sharedViewState.{VIEW}": json.dumps(view),
    }
