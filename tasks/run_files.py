"""The files of an MLflow run that `espalier reproduce` reads: how a variant was made, as text."""

import json
from typing import Any

import yaml

SETTINGS, LINEAGE = "settings.yaml", "lineage.json"


def files_of(known: dict[str, Any]) -> dict[str, str]:
    """File name -> text, of what `tasks.provenance.provenance` gives; {} where nothing is known."""
    if not known:
        return {}
    return {
        SETTINGS: yaml.safe_dump(known["settings"], sort_keys=False),
        LINEAGE: json.dumps(known["lineage"], indent=1) + "\n",
    }
