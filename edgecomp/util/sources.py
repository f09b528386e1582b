"""Which model files this user has built. A report names the file that it is of; a report may be of somebody else, and
a model file is a program. Only a file of the very bytes that this user has built is run because a report names it."""

from __future__ import annotations

from pathlib import Path

from .cache import keep, key_of, recall
from .files import cache_folder, sha256_file


def remember(source: str) -> None:
    """Notes that the user has built a model file, as it is now."""
    path = Path(source)
    if path.suffix == ".py" and path.is_file():
        keep(cache_folder("sources"), key_of(sha256_file(path)), True)


def is_known(source: str) -> bool:
    """Whether the user has built a file of these bytes, here or elsewhere."""
    path = Path(source)
    return (
        path.suffix == ".py" and path.is_file() and recall(cache_folder("sources"), key_of(sha256_file(path))) is True
    )
