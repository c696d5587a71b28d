"""Tables for narrow terminals: columns that do not fit beside each other continue below."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

GAP = 2
"""Spaces between two columns."""
NAME = 8
"""Characters that a name keeps where figures want the room."""


@dataclass(frozen=True)
class Columns:
    """A table whose first column names its rows.

    Args:
        cells: title -> cells.
        words: titles of the columns that hold words, which may be wrapped; the others hold figures, which may not.
        styles: of the rows; none when empty.
    """

    cells: Mapping[str, Sequence[str]]
    words: frozenset[str] = frozenset()
    styles: Sequence[str] = field(default=())

    def blocks(self, width: int) -> Iterator[Table]:
        """The columns as tables below each other, each with the names and as wide as a terminal of `width` characters.

        Names are wrapped where a figure beside them would not fit otherwise.
        """
        names, *others = self.cells
        needed = {title: GAP + self._width(title) for title in others}
        name_width = self._width(names)
        room = max(width - name_width, min(max(needed.values(), default=0), width - NAME))
        block: list[str] = []
        for title in others:
            if block and sum(needed[one] for one in (*block, title)) > room:
                yield self._table(block, min(name_width, width - room))
                block = []
            block.append(title)
        yield self._table(block, min(name_width, width - room))

    def print(self, console: Console) -> None:
        """Print all blocks, with an empty line between two."""
        for place, table in enumerate(self.blocks(console.width)):
            console.print(*[""] * bool(place), table, sep="\n")

    def _table(self, block: list[str], name_width: int) -> Table:
        names = next(iter(self.cells))
        table = Table(box=None, pad_edge=False, header_style="bold")
        # Otherwise words that are wrapped would take from the names too.
        table.add_column(names, overflow="fold", min_width=name_width)
        for title in block:
            wraps = title in self.words
            table.add_column(title, justify="left" if wraps else "right", no_wrap=not wraps)
        for place, label in enumerate(self.cells[names]):
            style = self.styles[place] if self.styles else None
            table.add_row(label, *(self.cells[title][place] for title in block), style=style)
        return table

    def _width(self, title: str) -> int:
        texts = [title, *self.cells[title]]
        if title in self.words:
            texts = [word for text in texts for word in text.split()]
        return max(map(cell_len, texts))
