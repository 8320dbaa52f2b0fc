"""Secrets of one machine: one file each, mode 600, in folders of mode 700, written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from habari.core import errors


def make_folder(folder: Path) -> None:
    """Make a folder that only this Unix user can enter, and its missing parents; narrow the mode of one that exists.

    Raises:
        ConfigError: If it cannot be made or is not ours.
    """
    try:
        for each in reversed([one for one in folder.parents if not one.exists()]):
            each.mkdir(mode=0o700, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        folder.chmod(0o700)
    except OSError as error:
        msg = (
            f"The folder {folder} cannot be made private: {error.strerror}. "
            "Expected a folder that this user owns; choose another data folder, or mend its owner."
        )
        raise errors.ConfigError(msg) from error


def write(path: Path, content: bytes) -> None:
    """Replace a file by one of mode 600 with this content, whole, also across a crash."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def ensure(path: Path, make: Callable[[], str]) -> str:
    """Return the secret in a file; the first call makes it.

    Raises:
        ConfigError: If the file is there and empty, which no start of ours leaves behind.
    """
    try:
        kept = path.read_text("utf-8").strip()
    except FileNotFoundError:
        kept = make()
        write(path, f"{kept}\n".encode())
        return kept
    path.chmod(0o600)
    if not kept:
        msg = f"The secret file {path} is empty; expected one line. Restore it, or remove it to have a new one made."
        raise errors.ConfigError(msg)
    return kept
