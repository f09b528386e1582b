"""The output folder of a build: one build at a time, and a record of the stages that need not be done again."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from ..errors import BuildError
from .cache import RUNNING, key_of
from .files import data_folder, remove_partials, replace, sha256_file, write_text


class Workspace:
    """`with Workspace(Path("out")) as work:` makes the folder, locks it, and clears what killed runs left.

    A build writes its results to `new(name)`. They take the place of an earlier build's when all of them are there, by
    `publish`: one that fails leaves the earlier one whole, and its own stages to go on from. Where there is no earlier
    one, that of a device which fails last is worth having.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.stages = folder / ".stages"
        self._unpublished = self.stages / "unpublished"
        self._written: list[str] = []

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
        remove_partials(self._unpublished)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is not None and not self.path("report.json").exists():
                with contextlib.suppress(BuildError):
                    self.publish()  # there is no earlier result that it could spoil
        finally:
            self._lock.close()

    def path(self, name: str) -> Path:
        return self.folder / name

    def new(self, name: str) -> Path:
        """Where to write a result until it is published."""
        self._unpublished.mkdir(exist_ok=True)
        self._written += [name] * (name not in self._written)
        return self._unpublished / name

    def publish(self, obsolete: Iterable[str] = ()) -> None:
        """Gives what has been written to `new` its place in the folder; what else was written there is no result.

        Args:
            obsolete: files of earlier results that are no longer of any, unless they have been written again.

        Raises:
            BuildError: the folder cannot be written to.
        """
        try:
            done = [name for name in self._written if (self._unpublished / name).exists()]
            for name in done:
                replace(self._unpublished / name, self.path(name))
            for name in set(obsolete) - set(done):
                self.path(name).unlink(missing_ok=True)
        except OSError as error:
            raise BuildError(f"cannot write to {self.folder}: {error.strerror}", "Check the disk and -o.") from error
        self._written.clear()
        shutil.rmtree(self._unpublished, ignore_errors=True)

    def recall(self, stage: str, key: str) -> dict[str, Any] | None:
        """What `record` was given, if it was for the same key and the stage's files are still as it left them."""
        try:
            record = json.loads((self.stages / f"{stage}.json").read_text(encoding="utf-8"))
            digest = record.pop("sha256")
        except (OSError, ValueError, RecursionError, AttributeError, KeyError, TypeError):
            return None
        if digest != key_of(json.dumps(record, sort_keys=True)) or record["key"] != key:
            return None
        return record["result"] if all(self._found(*file) for file in record["files"].items()) else None

    def _found(self, name: str, digest: str) -> bool:
        """Whether a stage's file is as it left it; a published one is put where the stage would write it."""
        if Path(name).parent == self._unpublished.relative_to(self.folder):
            fresh, old = self.new(Path(name).name), self.path(Path(name).name)
            if fresh.is_file() and sha256_file(fresh) == digest:
                return True
            if not old.is_file() or sha256_file(old) != digest:
                return False
            fresh.unlink(missing_ok=True)
            _link(old, fresh)
            return True
        return self.path(name).is_file() and sha256_file(self.path(name)) == digest

    def record(self, stage: str, key: str, files: list[Path], result: dict[str, Any]) -> None:
        """Remembers that `stage` is done: its key, its files (by content) and its result (JSON)."""
        digests = {str(path.relative_to(self.folder)): sha256_file(path) for path in files}
        record = json.loads(json.dumps({"key": key, "files": digests, "result": result}))  # as it is read back
        record["sha256"] = key_of(json.dumps(record, sort_keys=True))
        write_text(self.stages / f"{stage}.json", json.dumps(record, indent=1))


def _link(path: Path, other: Path) -> None:
    """A second name of a file; a copy where the file system has no such names."""
    try:
        os.link(path, other)
    except OSError:
        shutil.copyfile(path, other)


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
