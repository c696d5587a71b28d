"""How many tokens a model knows."""

from typing import cast

from torch import nn
from transformers import PreTrainedModel


def vocabulary_size(model: PreTrainedModel) -> int:
    """Rows of the input embedding: token ids are 0 to one less."""
    return cast("nn.Embedding", model.get_input_embeddings()).num_embeddings
