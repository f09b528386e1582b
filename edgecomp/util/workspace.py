"""The output folder of a build: one build at a time, and a record of the stages that need not be done again."""

from __future__ import annotations

import fcntl
import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

from ..errors import BuildError
from .cache import RUNNING, key_of
from .files import data_folder, remove_partials, sha256_file, write_text


class Workspace:
    """`with Workspace(Path("out")) as work:` makes the folder, locks it, and clears what killed runs left."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.stages = folder / ".stages"

    def __enter__(self) -> Workspace:
        try:
            self.stages.mkdir(parents=True, exist_ok=True)
            self._lock = open(self.stages / "lock", "w")
        except OSError as error:
            raise BuildError(
                f"cannot write to {self.folder}: {error.strerror}", "Name another folder with -o DIR."
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BuildError(f"another build is writing to {self.folder}", "Wait for it, or use another -o.") from error
        remove_partials(self.folder)
        remove_partials(self.stages)
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.close()

    def path(self, name: str) -> Path:
        return self.folder / name

    def recall(self, stage: str, key: str) -> dict[str, Any] | None:
        """What `record` was given, if it was for the same key and the stage's files are still as it left them."""
        try:
            record = json.loads((self.stages / f"{stage}.json").read_text())
        except (OSError, ValueError):
            return None
        if record.get("key") != key:
            return None
        for name, digest in record["files"].items():
            if not self.path(name).is_file() or sha256_file(self.path(name)) != digest:
                return None
        return record["result"]

    def record(self, stage: str, key: str, files: list[Path], result: dict[str, Any]) -> None:
        """Remembers that `stage` is done: its key, its files (by content) and its result (JSON)."""
        digests = {str(path.relative_to(self.folder)): sha256_file(path) for path in files}
        write_text(
            self.stages / f"{stage}.json", json.dumps({"key": key, "files": digests, "result": result}, indent=1)
        )


def stage_key(*parts: object, code: tuple[str, ...] = RUNNING) -> str:
    """A digest of what a stage's result depends on: its arguments, and the code that computes. That of drivers, reports
    and the command line is not part of it.

    Args:
        parts, code: see `cache.key_of`.
    """
    return key_of(*parts, code=code)


@cache
def code_digest() -> str:
    """Of the whole program but the experiments: processes that have the same understand each other's tasks."""
    digest = hashlib.sha256()
    for folder in (Path(__file__).parents[1], data_folder("targets"), data_folder("android_bench")):
        for path in sorted(folder.rglob("*")):
            if path.suffix in (".py", ".toml", ".cc", ".c", ".h") and path.parent.name != "papers":
                digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()
