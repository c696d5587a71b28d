"""Gates: the limits that a variant must keep to become the champion, checked on its record."""

from dataclasses import asdict, dataclass
from typing import Any

import torch

from pruning_core.evaluation.paired import PairedDifference, paired_difference
from pruning_core.settings.schedule import Gates
from tasks.records.model_facts import Size
from tasks.records.variant import Variant


@dataclass(frozen=True)
class Verdict:
    """The verdict of one gate on one variant.

    gate: its key in params.yaml.
    value: what was measured, None where it is not known; a gate that cannot be checked is not passed.
    limit: what is allowed.
    reason: both in words.
    """

    gate: str
    passed: bool
    value: float | None
    limit: float
    reason: str

    def facts(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Champion:
    """The present champion as it was evaluated beside the variants.

    losses: [windows] nats per token, None where it could not be evaluated.
    protocol: digest of how.
    problem: why it could not be evaluated, "" where it was.
    """

    version: str
    name: str
    digest: str
    losses: list[float] | None = None
    protocol: str | None = None
    problem: str = ""

    @property
    def title(self) -> str:
        """For people."""
        return f"the champion (version {self.version}, {self.name})"


def check_gates(gates: Gates, variant: Variant, dense: Variant, champion: Champion | None) -> list[Verdict]:
    """The verdicts of all gates that are set on a variant; it passes if all of them do.

    champion: None where there is none yet, which its gate lets pass.
    """
    verdicts = []
    if gates.perplexity is not None:
        verdicts.append(_at_most("perplexity", _ratio(variant, dense), gates.perplexity, "times the dense model's"))
    for measure in ("stored", "bitmask"):
        limit = gates.size and getattr(gates.size, measure)
        if limit:
            share = _share(variant, dense, measure)
            verdicts.append(_at_most(f"size.{measure}", share, limit, "of the dense model's bytes"))
    if gates.ledger is not None:
        verdicts.append(_at_most("ledger", float(len(variant.facts.ledger)), gates.ledger, "ledger events"))
    if gates.kl is not None:
        verdicts.append(_at_most("kl", variant.metrics.kl_to_dense, gates.kl, "nats per token from the dense model"))
    if gates.accuracy is not None:
        lost, of_dense = _lost_accuracy(variant, dense), "below the dense model's mean accuracy"
        verdicts.append(_at_most("accuracy", lost, gates.accuracy, of_dense))
    if gates.champion is not None:
        verdicts.append(_not_worse(variant, champion, gates.champion.margin))
    return verdicts


def _at_most(gate: str, value: float | None, limit: float, unit: str) -> Verdict:
    if value is None:
        return Verdict(gate, False, None, limit, f"is not known, at most {limit:g} {unit} is allowed")
    passed = value <= limit
    # As many digits as it takes to tell the two apart.
    digits = next((digits for digits in range(4, 17) if passed or f"{value:.{digits}g}" != f"{limit:.{digits}g}"), 17)
    return Verdict(gate, passed, value, limit, f"{value:.{digits}g} {unit}, at most {limit:g} is allowed")


def _ratio(variant: Variant, dense: Variant) -> float | None:
    perplexity, of_dense = variant.metrics.perplexity, dense.metrics.perplexity
    return perplexity / of_dense if perplexity is not None and of_dense else None


def _lost_accuracy(variant: Variant, dense: Variant) -> float | None:
    if variant.judged is None or dense.judged is None or variant.judged.protocol != dense.judged.protocol:
        return None
    return dense.judged.mean_accuracy - variant.judged.mean_accuracy


def _share(variant: Variant, dense: Variant, measure: str) -> float | None:
    measures, whole = variant.facts.size_bytes, dense.size_bytes
    size = getattr(measures, measure) if isinstance(measures, Size) else measures if measure == "stored" else None
    return size / whole if size is not None and whole else None


def _not_worse(variant: Variant, champion: Champion | None, margin: float) -> Verdict:
    if champion is None:
        return Verdict("champion", True, None, margin, "there is no champion yet")
    if champion.digest == variant.model.digest:
        return Verdict("champion", True, 0.0, margin, f"it is {champion.title} itself")
    losses, problem = variant.window_losses(), champion.problem
    if losses is None:
        problem = "the variant's losses window by window are gone"
    elif not problem and champion.protocol != variant.protocol_digest:
        problem = "their losses are of different windows or tokens (another tokenizer or text) and do not compare"
    if problem:
        return Verdict("champion", False, None, margin, f"{champion.title}: {problem}")
    difference = paired_difference(_double(losses), _double(champion.losses))
    passed = difference.mean <= margin
    reason = f"{_spread(difference)} nats per token against {champion.title}, at most {margin:+g} is allowed"
    return Verdict("champion", passed, difference.mean, margin, reason)


def _spread(difference: PairedDifference) -> str:
    error = difference.standard_error
    return f"{difference.mean:+.4g}" + (f" ± {error:.2g}" if error is not None else "")


def _double(losses: list[float]) -> torch.Tensor:
    return torch.tensor(losses, dtype=torch.float64)
