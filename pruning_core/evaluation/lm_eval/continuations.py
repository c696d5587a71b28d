"""A held-out lm-eval task made of any text: which of several pieces of the text really follows a context?

Published benchmarks ask for knowledge that a small or specialised model does not have, and then accuracy stays at
chance whatever is pruned. The text that a model is judged on holds as many questions as are needed that it can answer.
"""

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from pruning_core.errors import InputError
from pruning_core.text import Documents
from pruning_core.text.tokenized.windows import decoded, token_ids


@dataclass(frozen=True)
class Shape:
    """What items look like.

    Args:
        items: how many.
        context: tokens of the context.
        continuation: tokens of each choice.
        choices: pieces to choose from, the true one among them.
    """

    items: int
    context: int
    continuation: int
    choices: int

    @property
    def length(self) -> int:
        """Tokens of the text that an item takes."""
        return self.context + self.continuation


def continuation_items(
    documents: Documents, tokenizer: PreTrainedTokenizerBase, shape: Shape, seed: int
) -> list[dict[str, Any]]:
    """Items {context, choices, label} from all over the text, none of which overlap; the same for the same seed.

    The wrong choices are pieces of the same document that begin with the token that the true one begins with, so that
    names, style and the first word tell nothing. Where a context ends in white space, or the tokens would be others
    once the pieces are joined as text, there is no item: what the harness scores is these tokens and no others.

    Args:
        tokenizer: of the model; it decides where pieces may begin and how long they are.

    Raises:
        InputError: the text does not hold as many items.
    """
    draw = random.Random(seed)
    pieces = _Pieces(documents.texts, tokenizer, shape)
    places = list(pieces.places())
    draw.shuffle(places)
    items: list[tuple[tuple[int, int], dict[str, Any]]] = []
    for place in places:
        if len(items) == shape.items:
            break
        if item := pieces.item(place, draw):
            items.append((place, item))
    if len(items) < shape.items:
        raise InputError(
            f"the text gives {len(items)} items of {shape.context} and {shape.continuation} tokens with"
            f" {shape.choices} choices, and {shape.items} were asked; ask for fewer or shorter ones, or use a longer"
            " text"
        )
    # In the order of the text, which a reader can follow.
    return [item for _, item in sorted(items, key=lambda pair: pair[0])]


class _Pieces:
    """The documents as tokens, and what can be cut from them."""

    def __init__(self, texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, shape: Shape) -> None:
        self.tokenizer, self.shape = tokenizer, shape
        self.documents = [token_ids(tokenizer, text, special_tokens=False) for text in texts]
        self.beginnings: list[dict[int, list[int]]] = []
        for ids in self.documents:
            starts: dict[int, list[int]] = defaultdict(list)
            for start in range(shape.context, len(ids) - shape.continuation + 1):
                starts[ids[start]].append(start)
            self.beginnings.append(starts)

    def places(self) -> Iterator[tuple[int, int]]:
        """(document, first token) of the windows, back to back, that an item may be cut from."""
        for number, ids in enumerate(self.documents):
            for start in range(0, len(ids) - self.shape.length + 1, self.shape.length):
                yield number, start

    def item(self, place: tuple[int, int], draw: random.Random) -> dict[str, Any] | None:
        """The item at a place; None where the text gives none there."""
        (number, start), shape = place, self.shape
        ids, end = self.documents[number], start + shape.length
        middle = start + shape.context
        context = ids[start:middle]
        true = self._text(context, ids[middle:end])
        if true is None:
            return None
        choices = [true]
        # Pieces that touch the window would be copied from the context, or be the true one shifted.
        apart = [at for at in self.beginnings[number][ids[middle]] if at >= end or at + shape.continuation <= start]
        for at in draw.sample(apart, len(apart)):
            if len(choices) == shape.choices:
                break
            wrong = self._text(context, ids[at : at + shape.continuation])
            if wrong is not None and wrong not in choices:
                choices.append(wrong)
        if len(choices) < shape.choices:
            return None
        draw.shuffle(choices)
        return {"context": self._decoded(context), "choices": choices, "label": choices.index(true)}

    def _text(self, context: Sequence[int], piece: Sequence[int]) -> str | None:
        """The text of a piece; None where joined to the context's it would not be these tokens."""
        before, after = self._decoded(context), self._decoded([*context, *piece])
        if before != before.rstrip() or not after.startswith(before):
            return None
        head, whole = (token_ids(self.tokenizer, text, special_tokens=False) for text in (before, after))
        # A tokenizer that puts a mark before every text may begin with another token; the piece's are what is scored.
        same = whole[: len(head)] == head and whole[len(head) :] == list(piece)
        return after.removeprefix(before) if same else None

    def _decoded(self, ids: Sequence[int]) -> str:
        return decoded(self.tokenizer, ids)
