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
from habari.local import secretfiles, servers

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
            file.close()
            owner = self.owner()
            who = f"process {owner.pid}" if owner else "a process that starts or stops"
            msg = f"Habari runs on {self.path} already ({who}). Stop it with: habari down --dir {self.path}"
            raise errors.ConfigError(msg) from error
        own = servers.find(os.getpid(), sandboxed=False)
        file.truncate(0)
        file.write(json.dumps(dataclasses.asdict(own) if own else {}))
        file.flush()
        return Lock(file)

    def owner(self) -> servers.Process | None:
        """Return the platform's process that runs on this folder, or None.

        Raises:
            ConfigError: If the folder may not be entered.
        """
        # Asking for the lock itself would, for that moment, keep a platform from starting.
        try:
            kept = json.loads((self.path / "run" / "lock").read_text())
            process = servers.Process(**kept)
        except (FileNotFoundError, NotADirectoryError, ValueError, TypeError):
            return None
        except OSError as error:
            msg = f"The data folder {self.path} cannot be read: {error.strerror}. Name a folder of your own with --dir."
            raise errors.ConfigError(msg) from error
        return process if servers.alive(process) else None

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
