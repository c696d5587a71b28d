"""How many tokens a model can take at once."""

from transformers import PretrainedConfig

from pruning_core.errors import InputError

FIELDS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")


def context_length(config: PretrainedConfig) -> int | None:
    """Tokens that the model has positions for; None where the architecture sets no limit."""
    text = config.get_text_config()
    for field in FIELDS:
        value = getattr(text, field, None)
        if isinstance(value, int):
            return value
    return None


def check_fits(config: PretrainedConfig, length: int) -> None:
    """Raise InputError when windows of `length` tokens are longer than the model's context."""
    limit = context_length(config)
    if limit is not None and length > limit:
        raise InputError(
            f"windows of {length} tokens are longer than the model's context of {limit};"
            f" set the length to at most {limit}"
        )
