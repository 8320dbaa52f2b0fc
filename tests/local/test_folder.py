from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from habari.core import errors
from habari.local import folder


def test_a_new_folder_is_private_in_every_part(tmp_path: Path) -> None:
    data = folder.Folder.prepare(tmp_path / "data")
    made = [each for each in data.path.rglob("*") if each.is_dir()]
    assert {"homes", "hub", "logs", "objects", "run", "secrets", "storage"} == {
        each.name for each in data.path.iterdir()
    }
    assert all(stat.S_IMODE(each.stat().st_mode) == 0o700 for each in [data.path, *made])


def test_preparing_twice_keeps_what_is_there(tmp_path: Path) -> None:
    data = folder.Folder.prepare(tmp_path)
    data.write_json("ports.json", {"hub": 1})
    assert folder.Folder.prepare(tmp_path).read_json("ports.json") == {"hub": 1}


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.ConfigError) as caught:
        folder.Folder.prepare(tmp_path / "file" / "data")
    assert str(caught.value) == (
        f"The data folder {tmp_path}/file/data cannot be written: Not a directory. "
        "Choose another with --dir, or mend it."
    )


def test_a_folder_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(errors.ConfigError, match="belongs to another user; choose a folder of your own with --dir"):
        folder.Folder.prepare(tmp_path)


def test_the_lock_is_held_once_and_names_its_owner(tmp_path: Path) -> None:
    data = folder.Folder.prepare(tmp_path)
    assert data.owner() is None
    lock = data.lock()
    owner = data.owner()
    assert owner
    assert owner.pid == os.getpid()
    with pytest.raises(errors.ConfigError) as caught:
        data.lock()
    assert str(caught.value) == (
        f"Habari runs on {tmp_path} already (process {os.getpid()}). Stop it with: habari down --dir {tmp_path}"
    )
    lock.release()
    assert data.owner() is None
    data.lock().release()


def test_a_damaged_file_of_run_counts_as_absent(tmp_path: Path) -> None:
    data = folder.Folder.prepare(tmp_path)
    (tmp_path / "run" / "ports.json").write_text("[1")
    assert data.read_json("ports.json") == {}
