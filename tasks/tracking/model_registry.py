"""The registered model: a version per variant that passed through the gates, and the alias `champion` on one of them.

A version's source is the artifact's folder, so that `models:/NAME@champion` leads any reader of MLflow to the weights;
its tags say why it did or did not become the champion.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pruning_core.settings.schedule import NOT_IN_NAMES
from tasks.records.variant import Variant
from tasks.tracking.connection import connect, is_made, run_tags
from tasks.tracking.run_index import Client, every, find

ALIAS = "champion"


@dataclass(frozen=True)
class Version:
    """A registered version."""

    version: str
    tags: Mapping[str, str]

    @property
    def identity(self) -> dict[str, str]:
        """The tags that no other version has."""
        return {name: self.tags.get(name, "") for name in ("variant_key", "evaluation_key")}

    def facts(self) -> dict[str, str]:
        """As JSON."""
        return {
            "version": self.version,
            "variant": self.tags.get("variant", ""),
            "digest": self.tags.get("artifact.digest", ""),
        }


def model_name(model: str) -> str:
    """The name to register variants of a source model under: `model` of params.yaml without folder and revision."""
    last = model.rstrip("/").partition("@")[0].rpartition("/")[2] if "@" in model else Path(model).name
    return re.sub(f"[{re.escape(NOT_IN_NAMES)}]", "_", last) or "model"


def present(workspace: Path, name: str) -> Version | None:
    """The version that bears the alias, None where there is none yet."""
    with connect(workspace) as client:
        version = _aliases(client, name).get(ALIAS)
        if version is None:
            return None
        registered = client.get_model_version(name, version)
        return Version(str(registered.version), dict(registered.tags))


def register(workspace: Path, name: str, variant: Variant, tags: Mapping[str, str], description: str) -> Version:
    """The version of a variant and its evaluation, made or found.

    Args:
        tags: of the decision; a version that was there takes them over, and the description.
    """
    identity = {"variant_key": variant.model.key or variant.model.digest}
    identity["evaluation_key"] = variant.evaluation.key or variant.evaluation.digest
    artifact_tags = {
        "variant": variant.name,
        "artifact.digest": variant.model.digest,
        "artifact.path": variant.model.path or "",
    }
    all_tags = {**artifact_tags, **tags, **identity}
    with connect(workspace) as client:
        if not client.search_registered_models(f"name = '{name}'"):
            client.create_registered_model(name, description=f"Compressed variants; the alias `{ALIAS}` is in use.")
        for registered in every(client.search_model_versions, filter_string=f"name = '{name}'"):
            if identity.items() <= dict(registered.tags).items():
                for tag, value in all_tags.items():
                    client.set_model_version_tag(name, registered.version, tag, value)
                client.update_model_version(name, registered.version, description)
                return Version(str(registered.version), all_tags)
        runs = [run["run_id"] for run in find(client, identity)]
        source = Path(variant.model.path or "").absolute().as_uri()
        created = client.create_model_version(
            name, source, runs[0] if runs else None, all_tags, description=description
        )
        return Version(str(created.version), all_tags)


def promote(workspace: Path, name: str, version: Version) -> None:
    """Move the alias to this version."""
    with connect(workspace) as client:
        client.set_registered_model_alias(name, ALIAS, version.version)


def registered_versions(workspace: Path) -> list[dict[str, Any]]:
    """Every version of every registered model that is not deleted; [] where nothing was tracked.

    Each is {"name", "version", "source", "run_id", "aliases" (a list), "tags", "run_tags" (of its run, a deleted one
    too)}.
    """
    if not is_made(workspace):
        return []
    with connect(workspace) as client:
        models = {model.name: model.aliases for model in every(client.search_registered_models)}
        return [
            {
                **{name: getattr(version, name) for name in ("name", "version", "source", "run_id")},
                "aliases": [alias for alias, v in models[version.name].items() if str(v) == str(version.version)],
                "tags": dict(version.tags),
                "run_tags": run_tags(client, version.run_id),
            }
            for version in every(client.search_model_versions, order_by=["name ASC", "version_number ASC"])
        ]


def _aliases(client: Client, name: str) -> dict[str, str]:
    models = client.search_registered_models(f"name = '{name}'")
    return {alias: str(version) for alias, version in models[0].aliases.items()} if models else {}
