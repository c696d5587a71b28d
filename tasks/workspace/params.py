"""params.yaml as DVC reads it (YAML 1.1), with overrides from the command line."""

from pathlib import Path
from typing import Any

import yaml

from pruning_core.errors import InputError

OPTIONAL = ("compute", "sweep", "schedule")
"""Sections that a params.yaml may lack, and an override may still reach into."""


class _UniqueKeyLoader(yaml.SafeLoader):
    """A second key of the same name would silently win; here it is an error."""


def _unique_mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if key in seen:
            # What is read from text has a name in angle brackets.
            file = "--set" if loader.name.startswith("<") else Path(loader.name).name
            raise InputError(f"{file} line {key_node.start_mark.line + 1}: {key!r} is given twice; remove one")
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_UniqueKeyLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _unique_mapping)


def read_params(path: Path, overrides: list[str] | None = None) -> dict[str, Any]:
    """The mapping of a params.yaml after `overrides`, in their order.

    An override is "a.b.c=value" with the value in YAML, or "@FILE": the sections in that file (model, calibration,
    evaluation, variants) take the place of those in params.yaml, whole. A relative FILE starts at the folder of
    params.yaml.

    Raises:
        InputError: no such file, not YAML, a key given twice, or an override of neither form.
    """
    if not path.is_file():
        raise InputError(f"there is no {path.name} in {path.parent}; run Espalier in the folder that holds it")
    mapping = _load(path)
    for override in overrides or []:
        if override.startswith("@"):
            _overlay(mapping, override, path.parent / override[1:])
        else:
            _override(mapping, override)
    return mapping


def _load(path: Path) -> Any:
    try:
        with path.open(encoding="utf-8") as file:
            return yaml.load(file, Loader=_UniqueKeyLoader)
    except yaml.YAMLError as error:
        place = getattr(error, "problem_mark", None)
        line = f" line {place.line + 1}" if place else ""
        raise InputError(f"{path.name}{line} is not YAML: {getattr(error, 'problem', None) or error}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path.name} is not UTF-8 text; save it as UTF-8") from None


def _overlay(mapping: Any, override: str, path: Path) -> None:
    if not path.is_file():
        raise InputError(f"--set {override!r}: there is no file {path}")
    sections = _load(path)
    if not isinstance(sections, dict) or not isinstance(mapping, dict):
        raise InputError(f"--set {override!r}: the file must be a mapping of sections such as variants, as params.yaml")
    mapping.update(sections)


def _override(mapping: Any, override: str) -> None:
    key, equals, text = override.partition("=")
    parts = key.split(".")
    if not equals or not all(parts):
        raise InputError(
            f"--set {override!r} is not KEY=VALUE, nor @FILE; write for example --set calibration.sequences=32"
        )
    try:
        value = yaml.load(text, Loader=_UniqueKeyLoader)
    except yaml.YAMLError:
        raise InputError(f"--set {override!r}: the value {text!r} is not YAML") from None
    if parts[0] in OPTIONAL and isinstance(mapping, dict):
        mapping.setdefault(parts[0], {})
    for part in parts[:-1]:
        mapping = mapping.get(part) if isinstance(mapping, dict) else None
        if not isinstance(mapping, dict):
            raise InputError(f"--set {override!r}: params.yaml has no mapping {part!r} at that place")
    mapping[parts[-1]] = value
