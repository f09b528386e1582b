"""Which model files this user has built. A report names the file that it is of; a report may be of somebody else, and
a model file is a program. Only a file of the very bytes that this user has built is run because a report names it."""

from __future__ import annotations

from pathlib import Path

from .cache import keep, key_of, recall
from .files import cache_folder, sha256_file


def remember(source: str, folder: Path) -> None:
    """Notes that the user has built a model file, as it is now, and where both are."""
    path = Path(source)
    if not path.is_file():
        return
    keep(cache_folder("sources"), _place_key(path, folder), str(path.resolve()))
    if path.suffix == ".py":
        keep(cache_folder("sources"), key_of(sha256_file(path)), True)


def seen_from_here(source: str, folder: Path) -> str:
    """The path of a file that the report in `folder` names, which was relative to where the user built it."""
    built = recall(cache_folder("sources"), _place_key(Path(source), folder))
    return built if isinstance(built, str) and not Path(source).exists() else source


def _place_key(path: Path, folder: Path) -> str:
    return key_of(path.name, str(folder.resolve()))


def is_known(source: str) -> bool:
    """Whether the user has built a file of these bytes, here or elsewhere."""
    path = Path(source)
    return (
        path.suffix == ".py" and path.is_file() and recall(cache_folder("sources"), key_of(sha256_file(path))) is True
    )
