"""lm-evaluation-harness without its bars and warnings."""

import contextlib
import logging
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import lm_eval.api.task
from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

_ALONE = threading.RLock()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Inside the block the harness shows nothing; one thread at a time, since it has no settings for that.

    What it warns of is what we ask for, or told in our own facts (`Answers.truncated`).
    """
    with _ALONE:
        logger, module = logging.getLogger("lm_eval"), lm_eval.api.task
        level, bar, hidden = logger.level, module.tqdm, are_progress_bars_disabled()
        try:
            logger.setLevel(logging.ERROR)
            module.tqdm = _without_bar
            disable_progress_bars()
            yield
        finally:
            logger.setLevel(level)
            module.tqdm = bar
            if not hidden:
                enable_progress_bars()


def _without_bar(rows: Sequence[Any], **_: Any) -> Sequence[Any]:
    return rows
