"""Fetching a model from the Hugging Face hub, or from its local cache when offline."""

import re
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    RevisionResolutionError,
)

from pruning_core.errors import InputError

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")
REMOTE_CODE = "*.py"
# Pickled weights are not even downloaded.
FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.tiktoken", "*.jinja"]
SUBFOLDERS = ["*/*"]


def is_hub_id(model: str) -> bool:
    """Whether the text has the form org/name or org/name@revision."""
    return HUB_ID.fullmatch(model) is not None


def snapshot(model: str, *, with_code: bool = False) -> tuple[Path, str]:
    """Directory and commit of a hub model, downloaded unless it is in the cache.

    Raises:
        InputError: unknown model or revision, access denied, or the hub is out of reach.
    """
    name, _, revision = model.partition("@")
    here = f"there is no directory {model!r}, and as a hub id"
    instead = "download it elsewhere and point `model:` to the directory"
    try:
        path = Path(
            snapshot_download(
                name,
                revision=revision or None,
                allow_patterns=[*FILES, REMOTE_CODE] if with_code else FILES,
                ignore_patterns=SUBFOLDERS,
            )
        )
    except GatedRepoError as error:
        raise InputError(f"{here} it needs permission: accept its terms and log in, or {instead}") from error
    except RepositoryNotFoundError as error:
        raise InputError(f"{here} it is unknown or private; correct the name or log in, or {instead}") from error
    except RevisionNotFoundError as error:
        raise InputError(f"{here} it has no revision {revision!r}; name a branch, tag or commit") from error
    except HFValidationError as error:
        raise InputError(f"{here} it is not valid ({error}); write org/name@revision") from error
    except (LocalEntryNotFoundError, RevisionResolutionError, HfHubHTTPError, ConnectionError) as error:
        raise InputError(f"{here} it cannot be fetched (offline, or the hub is out of reach); {instead}") from error
    # The cache names the folder of a snapshot by its commit.
    return path, path.name
