"""Methods found by name: one file, one frozen dataclass, one entry."""

import dataclasses
import difflib
import importlib
import pkgutil
import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import pydantic
import pydantic.dataclasses
from pydantic import ConfigDict

from pruning_core.errors import InputError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T")
Method = TypeVar("Method")
STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


def nearest(word: str, names: list[str]) -> str:
    """' (did you mean X?)' for the closest of the known names, or nothing when none is close."""
    close = difflib.get_close_matches(str(word), names, n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


def validated(build: Callable[[], T], where: str, fields: list[str]) -> T:
    """Run `build`; a pydantic error becomes one sentence that names the setting and what is allowed.

    Raises:
        InputError: the first thing that is wrong, with its place and the nearest known key.
    """
    try:
        return build()
    except pydantic.ValidationError as error:
        raise InputError(explain(error, where, fields)) from None


def explain(error: pydantic.ValidationError, where: str, fields: list[str]) -> str:
    """The first fault of a validation error as a sentence for the person who wrote the setting."""
    fault = error.errors()[0]
    place = ".".join(str(part) for part in (where, *fault["loc"]) if part != "")
    value = fault.get("input")
    if fault["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        key = str(fault["loc"][-1])
        return f"{place} is not a known key{nearest(key, fields)}; known keys: {', '.join(fields) or 'none'}"
    if fault["type"] in ("missing", "missing_argument"):
        return f"{place} is missing; add it ({fault['msg'].lower()})"
    if isinstance(value, str) and fault["type"] in ("float_type", "int_type"):
        return f"{place} is the text {value!r} where a number is needed{_yaml_number_hint(value)}"
    if not fault["loc"]:
        # A check of several fields together words its own sentence; the input is then all of them.
        return f"{place}: {_lower_first(fault['msg'])}"
    return f"{place}: {_lower_first(fault['msg'])}, got {value!r}"


def _yaml_number_hint(value: str) -> str:
    try:
        number = float(value)
    except ValueError:
        return "; write a number such as 0.01"
    return f"; YAML 1.1 reads {value} as text: write {number!r}"


def _lower_first(message: str) -> str:
    message = message.removeprefix("Value error, ")
    return message[:1].lower() + message[1:]


_REGISTRIES: "weakref.WeakSet[Registry[Any]]" = weakref.WeakSet()


def forget_methods(package: str) -> None:
    """Drop what modules of `package` registered, of every kind."""
    for registry in _REGISTRIES:
        registry.forget(package)


class Registry(Generic[T]):
    """Name -> method class. Every file of the package folder is imported on first use, so a broken one raises.

    Args:
        kind: what the methods are, for messages ("saliency").
        package: dotted name of the folder that holds one file per method.
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self.package = package
        self._classes: dict[str, type[T]] = {}
        self._loaded = False
        _REGISTRIES.add(self)

    def register(self, name: str) -> Callable[[type[Method]], type[Method]]:
        """Class decorator: makes a strict frozen dataclass of the class and enters it under `name`.

        The class is given its name here, so it has the form of T only from then on.

        Raises:
            InputError: the name is taken.
        """

        def enter(cls: type[Method]) -> type[Method]:
            # A method from elsewhere must not take a name before its owner is imported.
            if cls.__module__.partition(".")[0] != self.package.partition(".")[0]:
                self.names()
            if name in self._classes:
                owner = self._classes[name].__module__
                raise InputError(f"{self.kind} {name!r} of {cls.__module__} needs another name: {owner} has it already")
            method: Any = pydantic.dataclasses.dataclass(frozen=True, config=STRICT)(cls)
            method.name = name
            self._classes[name] = method
            return cast("type[Method]", method)

        return enter

    def names(self) -> list[str]:
        """All registered names, sorted."""
        if not self._loaded:
            package = importlib.import_module(self.package)
            for module in pkgutil.iter_modules(package.__path__):
                importlib.import_module(f"{self.package}.{module.name}")
            self._loaded = True
        return sorted(self._classes)

    def forget(self, package: str) -> None:
        """Drop the methods that modules of `package` registered."""
        kept = {name: cls for name, cls in self._classes.items() if cls.__module__.partition(".")[0] != package}
        self._classes = kept

    def get(self, name: str) -> type[T]:
        """The class registered under `name`; InputError names the nearest known one."""
        names = self.names()
        if name not in self._classes:
            raise InputError(f"{name!r} is not a known {self.kind}{nearest(name, names)}; known: {', '.join(names)}")
        return self._classes[name]

    def module(self, name: str) -> str:
        """Dotted module of the method: what a cache key has to depend on."""
        return self.get(name).__module__

    def build(self, spec: Mapping[str, Any], where: str = "") -> T:
        """The method that a mapping {"name": ..., field: value} describes.

        Raises:
            InputError: not a mapping, unknown name, unknown field, or a value out of range.
        """
        where = where or self.kind
        if not isinstance(spec, Mapping) or not isinstance(spec.get("name"), str):
            raise InputError(
                f"{where} must be a mapping {{name: ...}} with one of the names {', '.join(self.names())}; got {spec!r}"
            )
        cls = self.get(spec["name"])
        values = {key: value for key, value in spec.items() if key != "name"}
        fields = sorted(field.name for field in dataclasses.fields(cast("type[DataclassInstance]", cls)))
        return validated(lambda: cls(**values), where, fields)
