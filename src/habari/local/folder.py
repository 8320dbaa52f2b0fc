"""The data folder of one machine: where everything the platform keeps lives, who may read it, and its lock.

::

    DIR/secrets/{hub,storage,store}   one file a secret
    DIR/hub  DIR/storage              databases of the hub and of the storage service
    DIR/objects                       the embedded object store
    DIR/homes/<slug>                  one home a user
    DIR/run  DIR/logs                 ports, lock and status; one log a part
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from habari.core import errors
from habari.local import secretfiles

_PARTS = (
    "secrets",
    "secrets/hub",
    "secrets/storage",
    "secrets/store",
    "hub",
    "storage",
    "objects",
    "homes",
    "run",
    "logs",
)


@dataclasses.dataclass(frozen=True)
class Folder:
    """A data folder; only its owner may enter it.

    Attributes:
        path: Its absolute path.
    """

    path: Path

    @classmethod
    def prepare(cls, path: Path) -> Folder:
        """Make the folder with all its parts, each with mode 0700.

        Raises:
            ConfigError: If it cannot be made or written, or belongs to another user.
        """
        path = path.expanduser().absolute()
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if path.stat().st_uid != os.geteuid():
                msg = f"The data folder {path} belongs to another user; choose a folder of your own with --dir."
                raise errors.ConfigError(msg)
            path.chmod(0o700)
            for part in _PARTS:
                (path / part).mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=path / "run"):
                pass
        except OSError as error:
            msg = f"The data folder {path} cannot be written: {error.strerror}. Choose another with --dir, or mend it."
            raise errors.ConfigError(msg) from error
        return cls(path)

    def secret_file(self, part: str, name: str) -> Path:
        """Return where a secret of a part (`hub`, `storage` or `store`) is kept."""
        return self.path / "secrets" / part / name

    def lock(self) -> Lock:
        """Take the folder for this process.

        Raises:
            ConfigError: If a platform runs on it already; the message names its process.
        """
        file = (self.path / "run" / "lock").open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            pid = file.read().strip() or "unknown"
            file.close()
            msg = f"Habari runs on {self.path} already (process {pid}). Stop it with: habari down --dir {self.path}"
            raise errors.ConfigError(msg) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        return Lock(file)

    def owner(self) -> int | None:
        """Return the process id of the platform that runs on this folder, or None."""
        try:
            file = (self.path / "run" / "lock").open("r+")
        except FileNotFoundError:
            return None
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                text = file.read().strip()
                return int(text) if text else None
            return None

    def read_json(self, name: str) -> dict[str, Any]:
        """Return what was last kept under a name in `run`, or an empty mapping."""
        try:
            kept = json.loads((self.path / "run" / name).read_text())
        except (FileNotFoundError, ValueError):
            return {}
        return kept if isinstance(kept, dict) else {}

    def write_json(self, name: str, value: dict[str, Any]) -> None:
        """Keep a mapping under a name in `run`."""
        secretfiles.write(self.path / "run" / name, json.dumps(value, indent=1).encode())


class Lock:
    """Held while this process runs the platform; the kernel gives it back when the process ends."""

    def __init__(self, file: Any) -> None:
        """Keep the locked file open."""
        self._file = file

    def release(self) -> None:
        """Give the folder back."""
        self._file.truncate(0)
        self._file.close()
