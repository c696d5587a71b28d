"""An engine that takes known times, and one that fails; each in the process that measures."""


def known(path, load, trust_remote_code):
    """Batch b: prefill in b seconds, decoding in 2 b."""
    return {batch: ([float(batch)] * load.repeats, [2.0 * batch] * load.repeats) for batch in load.batches}


def failing(path, load, trust_remote_code):
    """As an engine that does not know a model."""
    raise ValueError(f"{path.name} is of an unknown architecture")
