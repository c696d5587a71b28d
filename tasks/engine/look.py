"""A driver that only looks results up: None for what is not stored; nothing is computed or changed."""

from dataclasses import dataclass, field

from tasks.engine.step import Call, Context
from tasks.store.artifact import Artifact


@dataclass(frozen=True)
class Lookup:
    """The result of looking a call up.

    Args:
        artifact: its result where that is stored and intact.
        problem: what is wrong with a stored result, None where there is none or nothing is wrong.
    """

    call: Call
    artifact: Artifact | None
    problem: str | None = None


@dataclass
class Look:
    """Looks up the result of every call, and records the lookups in order.

    A call with an input that is not computed yet has no key, so it is not there either.
    """

    lookups: list[Lookup] = field(default_factory=list)

    def __call__(self, context: Context, call: Call) -> Artifact | None:
        """The intact result of the call, if the store has it."""
        artifact, problem = context.store.check(call.key) if call.key else (None, None)
        self.lookups.append(Lookup(call, artifact, problem))
        return artifact
