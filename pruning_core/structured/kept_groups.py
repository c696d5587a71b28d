"""Which groups stay: what a ranking decides and surgery carries out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from pruning_core.errors import InputError
from pruning_core.model.coupled_groups import Site

Mode = Literal["uniform", "heterogeneous"]
"""uniform: every block gets the same widths, and any loader reads the model. heterogeneous: each has its own, and
`pruning_core.model.narrowed` reads it."""


@dataclass(frozen=True)
class KeptGroups:
    """The groups that stay: a plan for surgery.

    Args:
        kept: site name -> groups, ascending.
        parameters: stored numbers of the model before and after.
    """

    mode: Mode
    kept: dict[str, tuple[int, ...]]
    before: int
    after: int

    def removed(self, site: Site) -> tuple[int, ...]:
        """The groups of a site that go.

        Raises:
            InputError: the plan is of another model.
        """
        kept = self.kept.get(site.name, ())
        if not kept or kept[-1] >= site.groups:
            raise InputError(f"the plan does not fit {site.name} with its {site.groups} groups; plan for this model")
        return tuple(sorted(set(range(site.groups)) - set(kept)))

    def facts(self) -> dict[str, Any]:
        """As JSON."""
        kept = {name: list(groups) for name, groups in self.kept.items()}
        return {"mode": self.mode, "parameters": {"before": self.before, "after": self.after}, "kept": kept}

    @classmethod
    def of_facts(cls, facts: dict[str, Any]) -> "KeptGroups":
        """The inverse of `facts`.

        Raises:
            InputError: it is no such JSON.
        """
        mode, kept, parameters = (facts.get(key) for key in ("mode", "kept", "parameters"))
        if (
            mode not in get_args(Mode)
            or not isinstance(parameters, dict)
            or not isinstance(kept, dict)
            or not all(_ascending(groups) for groups in kept.values())
        ):
            raise InputError(
                "a plan needs mode, parameters {before, after} and the groups that each site keeps, ascending"
            )
        groups_of = {name: tuple(groups) for name, groups in kept.items()}
        return cls(cast("Mode", mode), groups_of, parameters["before"], parameters["after"])


def _ascending(groups: object) -> bool:
    return (
        isinstance(groups, list)
        and groups == sorted(set(groups))
        and all(type(group) is int and group >= 0 for group in groups)
    )


def groups_table(sites: Sequence[Site]) -> str:
    """What the groups of each site are made of, for people."""
    rows = [("site", "groups", "parameters each", "slices of each group")]
    for site in sites:
        counts: dict[str, int] = {}
        for member in site.members:
            name = f"{member.matrix.rpartition('.')[2]}.{member.parameter} {'columns' if member.consumes else 'rows'}"
            counts[name] = counts.get(name, 0) + member.index.shape[1]
        slices = ", ".join(f"{count} {name}" for name, count in counts.items())
        rows.append((site.name, str(site.groups), f"{site.group_size:,}", slices))
    return _aligned(rows)


def plan_table(plan: KeptGroups, sites: Sequence[Site]) -> str:
    """What stays of each site, for people."""
    rows = [("site", "groups", "kept", "parameters removed")]
    for site in sites:
        gone = len(plan.removed(site))
        rows.append((site.name, str(site.groups), str(site.groups - gone), f"{gone * site.group_size:,}"))
    share = 1 - plan.after / plan.before
    return _aligned(rows) + f"\n{plan.before:,} parameters become {plan.after:,} ({share:.2%} removed, {plan.mode})"


def _aligned(rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
