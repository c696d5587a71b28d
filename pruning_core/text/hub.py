"""A dataset of the Hugging Face hub as a text, with the papers' two by name."""

from dataclasses import dataclass
from pathlib import Path

from pruning_core.errors import InputError
from pruning_core.text import TEXTS, Documents


@dataclass(frozen=True)
class PublishedDataset:
    """Where a dataset of the papers is and how they use it.

    Args:
        id: dataset id on the hub.
        config: its configuration.
        files: split -> the one file of it that is read; empty: the split as published.
        separator: joins the documents.
        first: split -> number of leading documents that are used; absent: all.
    """

    id: str
    config: str | None
    files: dict[str, str]
    separator: str
    first: dict[str, int]


PUBLISHED = {
    "wikitext2": PublishedDataset("Salesforce/wikitext", "wikitext-2-raw-v1", {}, "\n\n", {}),
    "c4": PublishedDataset(
        "allenai/c4",
        None,
        {
            "train": "en/c4-train.00000-of-01024.json.gz",
            "validation": "en/c4-validation.00000-of-00008.json.gz",
        },
        " ",
        # SparseGPT, Wanda and GPTQ report C4 over the beginning of these.
        {"validation": 1100},
    ),
}


@TEXTS.register("hub")
class Hub:
    """A split of a hub dataset, one document per row.

    `wikitext2` is WikiText-2 raw with every line, also the empty ones, joined with a blank line between; `c4`
    is the first English shard, all documents of it for training and the first 1100 for validation, joined
    with a space: as in the code of SparseGPT, Wanda and GPTQ. Anything else is a dataset id "owner/name".

    Args:
        dataset: wikitext2, c4, or a dataset id.
        split: name of the split, such as train, validation or test.
        config: the dataset's configuration; not for wikitext2 and c4.
        field: column of the text.
        revision: commit or tag of the dataset; None: the newest.

    Raises:
        InputError: the dataset cannot be had (offline, unknown, no such split) or has no such column.
    """

    dataset: str
    split: str = "train"
    config: str | None = None
    field: str = "text"
    revision: str | None = None

    def __post_init__(self) -> None:
        dataset = PUBLISHED.get(self.dataset)
        if dataset and (self.config is not None or self.field != "text"):
            raise InputError(f"{self.dataset} fixes config and field; leave them out, or use the id {dataset.id!r}")
        if dataset and dataset.files and self.split not in dataset.files:
            raise InputError(f"{self.dataset} has the splits {', '.join(dataset.files)}, not {self.split!r}")
        if dataset is None and self.dataset.count("/") != 1:
            raise InputError(f"{self.dataset!r} is no dataset: use {', '.join(PUBLISHED)} or an id 'organisation/name'")

    def read(self, folder: Path = Path()) -> Documents:
        """The documents in the order of the dataset; downloaded once, then from the local cache."""
        dataset = PUBLISHED.get(self.dataset) or PublishedDataset(self.dataset, self.config, {}, "\n\n", {})
        texts = self._column(dataset)
        source = {
            "name": "hub",
            "dataset": dataset.id,
            "config": dataset.config,
            "file": dataset.files.get(self.split),
            "split": self.split,
            "field": self.field,
            "revision": self.revision,
            "documents": len(texts),
        }
        return Documents(texts, dataset.separator, source)

    def _column(self, dataset: PublishedDataset) -> tuple[str, ...]:
        # Imported here: it takes seconds, and the other texts do without it.
        import datasets

        files = {self.split: dataset.files[self.split]} if dataset.files else None
        try:
            rows = datasets.load_dataset(
                dataset.id, dataset.config, split=self.split, data_files=files, revision=self.revision
            )
        except (OSError, ValueError) as error:
            # datasets reports every failed download, unknown name and unknown split as one of these two.
            reason = " ".join(str(error).split())
            raise InputError(
                f"cannot load {self.split} of {dataset.id} from the hub ({reason[:200]}); check the name,"
                " the network, or name a local copy: {name: file, path: ...} or {name: jsonl, path: ...}"
            ) from None
        if self.field not in rows.column_names:
            columns = ", ".join(rows.column_names)
            raise InputError(f"{dataset.id} has no column {self.field!r}; set field to one of {columns}")
        texts = tuple(rows[self.field][: dataset.first.get(self.split)])
        if not all(isinstance(text, str) for text in texts):
            raise InputError(f"column {self.field!r} of {dataset.id} is not text; set field to a column of strings")
        return texts
