"""What killed processes leave half-written goes when the next one starts.

Every process keeps a journal in the cache, `running/NAME`, which it locks for as long as it lives. It names what the
process is about to write under names that are not final ones: partial files and temporary folders, wherever they are.
A journal that is not locked is that of a dead process. Numbers of processes would not do: containers that share a cache
have the same ones, and a lock is seen from all of them.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import itertools
import os
import shutil
import threading
import uuid
from pathlib import Path
from typing import TextIO

import platformdirs

_SUFFIX = ".partial"
_numbers = itertools.count()


def cache_folder(*parts: str) -> Path:
    """A folder in the user's cache; `EDGECOMP_CACHE` moves it. Created if missing."""
    root = os.environ.get("EDGECOMP_CACHE") or platformdirs.user_cache_dir("edgecomp")
    folder = Path(root, *parts)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


class _Journal:
    """That of this process; opened when it is first needed, one for each cache."""

    def __init__(self) -> None:
        self._files: dict[Path, TextIO] = {}
        self.begin()

    def begin(self) -> None:
        """Also in a process that is forked: the lock of its parent's journal is not its own."""
        self._alone = threading.Lock()  # a second lock on the same journal would wait for the first
        self.end()
        self.token = uuid.uuid4().hex[:16]

    def end(self) -> None:
        for file in self._files.values():
            file.close()
        self._files.clear()

    def forget(self) -> None:
        """The process ends and has removed all that it noted: so goes its journal, and those of its dead workers."""
        for folder in self._files:
            with contextlib.suppress(OSError):
                (folder / self.token).unlink(missing_ok=True)
        if self._files:
            clear()  # of workers, which are ended by a signal
        self.end()

    def note(self, path: Path) -> None:
        folder = cache_folder("running")
        with self._alone:
            if folder not in self._files:
                clear()
                self._files[folder] = self._opened(folder / self.token)
            self._files[folder].write(f"{path}\n")
            self._files[folder].flush()

    @staticmethod
    def _opened(path: Path) -> TextIO:
        while True:
            file = open(path, "a", encoding="utf-8", errors="surrogateescape")  # noqa: SIM115 (locked until the end)
            fcntl.flock(file, fcntl.LOCK_EX)
            with contextlib.suppress(FileNotFoundError):
                if os.stat(path).st_ino == os.fstat(file.fileno()).st_ino:
                    return file
            file.close()  # another process took it for a dead one's before it was locked


_journal = _Journal()
os.register_at_fork(after_in_child=_journal.begin)
atexit.register(_journal.forget)


def partial(final: Path) -> Path:
    """A name beside `final` that no other process has, in no container; noted as not yet whole."""
    path = final.with_name(f".{final.name[:40]}.{_journal.token}-{os.getpid()}-{next(_numbers)}{_SUFFIX}")
    with contextlib.suppress(OSError):  # without a journal it is only left lying when the process is killed
        _journal.note(Path(os.path.abspath(path)))
    return path


def clear() -> None:
    """Removes what dead processes have noted, and their journals."""
    try:
        journals = list(cache_folder("running").iterdir())
    except OSError:
        return
    for journal in journals:
        with contextlib.suppress(OSError), open(journal, encoding="utf-8", errors="surrogateescape") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # BlockingIOError: it lives
            for line in file:
                path = Path(line.rstrip("\n"))
                if path.name.startswith(".") and path.name.endswith(_SUFFIX):
                    remove(path)
            journal.unlink(missing_ok=True)


def remove(path: Path) -> None:
    """A file or folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
