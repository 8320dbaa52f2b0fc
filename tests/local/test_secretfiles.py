from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from habari.core import errors
from habari.local import secretfiles


def test_a_secret_is_made_once(tmp_path: Path) -> None:
    path = tmp_path / "token"
    assert secretfiles.ensure(path, lambda: "one") == "one"
    path.chmod(0o644)
    assert secretfiles.ensure(path, lambda: "two") == "one"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["token"]


def test_an_empty_secret_is_not_taken_for_one(tmp_path: Path) -> None:
    (tmp_path / "token").touch()
    with pytest.raises(errors.ConfigError, match=r"token is empty; expected one line\. Restore it, or remove it"):
        secretfiles.ensure(tmp_path / "token", lambda: "two")


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secretfiles.write(tmp_path / "token", b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        secretfiles.write(tmp_path / "token", b"new")
    assert (tmp_path / "token").read_bytes() == b"old"
    assert [each.name for each in tmp_path.iterdir()] == ["token"]


def test_a_folder_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        errors.ConfigError, match=r"cannot be made private: .*choose another data folder, or mend its owner"
    ):
        secretfiles.make_folder(tmp_path / "file" / "inside")
