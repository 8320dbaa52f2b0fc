"""What this server has begun to write and not yet published, noted on disk for the next one to remove.

A server may be killed at any moment. What it was writing then is a hidden file in the home, or parts of an
object in a bucket, which nobody sees and which take room for ever. So each is noted in the user's data folder
before it is begun. A server holds a lock on its own note for as long as it runs: a note without a lock is that
of a server that is gone, and the next one takes it over.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import logging
import os
import pathlib
import secrets
import threading
from collections.abc import Iterator
from typing import NamedTuple

from jupyter_core import paths as jupyter_paths

_log = logging.getLogger(__name__)

_SUFFIX = ".jsonl"
_MAX_NOTES = 100
"""Notes of servers that are gone, taken over at one start; arbitrary, a home rarely has two."""


class HiddenFile(NamedTuple):
    """A file that is being written under a hidden name."""

    path: str


class Parts(NamedTuple):
    """A multipart upload."""

    endpoint_url: str
    bucket: str
    key: str
    upload_id: str


Item = HiddenFile | Parts


class Notes:
    """The items that are begun and not ended; safe in threads. Until `keep_in`, nothing is noted."""

    def __init__(self) -> None:
        """Start without a folder."""
        self._folder: pathlib.Path | None = None
        self._path = pathlib.Path()
        self._file: int | None = None
        self._open: dict[Item, None] = {}
        self._lock = threading.Lock()

    def keep_in(self, folder: pathlib.Path) -> None:
        """Note in this folder, which is made at the first item."""
        with self._lock:
            self._folder = folder

    def begin(self, item: Item) -> None:
        """Note an item before it is begun."""
        with self._lock:
            if self._folder is None:
                return
            self._open[item] = None
            self._append("begun", item)

    def end(self, item: Item) -> None:
        """Strike an item that was published or removed; one that was not noted is no error."""
        with self._lock:
            if item not in self._open:
                return
            del self._open[item]
            if self._open:
                self._append("ended", item)
            elif self._file is not None:
                with _logged():
                    os.ftruncate(self._file, 0)

    def open(self) -> list[Item]:
        """Return the items that are begun and not ended."""
        with self._lock:
            return list(self._open)

    def take_over(self) -> list[Item]:
        """Return what servers that are gone have left behind; it is noted as this one's now."""
        if self._folder is None:
            return []
        taken: list[Item] = []
        for path in itertools.islice(sorted(self._folder.glob(f"*{_SUFFIX}")), _MAX_NOTES):
            with _logged(), _locked(path) as found:
                for item in found:
                    self.begin(item)
                taken += found
                path.unlink(missing_ok=True)
        return taken

    def close(self) -> None:
        """Release the note; it is deleted if nothing in it is open."""
        with self._lock:
            self._folder = None
            if self._file is not None:
                with _logged():
                    if not self._open:
                        self._path.unlink(missing_ok=True)
                    os.close(self._file)
                self._file = None
            self._open.clear()

    def _append(self, event: str, item: Item) -> None:
        with _logged():
            if self._file is None:
                self._file = self._make()
            os.write(self._file, (json.dumps([event, *item]) + "\n").encode("ascii"))

    def _make(self) -> int:
        """Open this server's note, which gets its name with the lock on it: nobody takes it for one left behind."""
        folder = self._folder or pathlib.Path()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path = folder / f"{secrets.token_hex(8)}{_SUFFIX}"
        hidden = self._path.with_suffix(".new")
        file = os.open(hidden, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            hidden.rename(self._path)
        except OSError:
            os.close(file)
            hidden.unlink(missing_ok=True)
            raise
        return file


notes = Notes()
"""The notes of this process; `habari.server.lifetime` gives them their folder."""


def default_dir() -> pathlib.Path:
    """Return the folder for notes."""
    return pathlib.Path(jupyter_paths.jupyter_data_dir(), "habari", "unfinished")


@contextlib.contextmanager
def _locked(path: pathlib.Path) -> Iterator[list[Item]]:
    """Yield what is open in the note of a server that is gone.

    Raises:
        BlockingIOError: If its server runs.
    """
    file = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(file, "rb") as note:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        found: dict[Item, None] = {}
        for line in note:
            with contextlib.suppress(ValueError, TypeError):  # the last line of a server that was killed may be torn
                event, *fields = json.loads(line)
                item = HiddenFile(*fields) if len(fields) == 1 else Parts(*fields)
                if event == "begun":
                    found[item] = None
                else:
                    found.pop(item, None)
        yield list(found)


@contextlib.contextmanager
def _logged() -> Iterator[None]:
    """Log what the disk refuses: whoever can still write a file should not fail for want of a note."""
    try:
        yield
    except BlockingIOError:
        pass
    except OSError as error:
        _log.warning("What this server writes cannot be noted for removal, should it be killed: %s", error)
