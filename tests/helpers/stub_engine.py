"""Engines that take fixed times, one that takes known memory, and one that fails; each in the process that measures."""


def fixed_rates(path, load, trust_remote_code):
    """Batch b: prefill in b seconds, decoding in 2 b."""
    return {batch: ([float(batch)] * load.repeats, [2.0 * batch] * load.repeats) for batch in load.batches}


def filling(path, load, trust_remote_code):
    """The same, with 100 MB that are given back."""
    held = b"1" * 100_000_000
    del held
    return fixed_rates(path, load, trust_remote_code)


def failing(path, load, trust_remote_code):
    """As an engine that does not know a model."""
    raise ValueError(f"{path.name} is of an unknown architecture")
