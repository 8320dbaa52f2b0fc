from __future__ import annotations

import datetime
from pathlib import Path

import pytest

from habari.local import certificates


def test_certificates_are_kept_until_they_end_soon(tmp_path: Path) -> None:
    now = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    certificates.ensure(tmp_path, ["filer", "client"], now=now)
    first = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert sorted(first) == ["ca.crt", "client.crt", "client.key", "filer.crt", "filer.key"]
    day = datetime.timedelta(days=1)
    certificates.ensure(tmp_path, ["filer", "client"], now=now + 3600 * day - 366 * day)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == first
    certificates.ensure(tmp_path, ["filer", "client"], now=now + 3650 * day - 365 * day)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} != first


@pytest.mark.parametrize("damage", ["ca.crt", "client.key"])
def test_certificates_are_made_anew_where_one_is_missing_or_broken(tmp_path: Path, damage: str) -> None:
    certificates.ensure(tmp_path, ["client"])
    before = (tmp_path / "client.crt").read_bytes()
    if damage == "ca.crt":
        (tmp_path / damage).write_text("broken")
    else:
        (tmp_path / damage).unlink()
    certificates.ensure(tmp_path, ["client"])
    assert (tmp_path / "client.crt").read_bytes() != before
    assert (tmp_path / "client.key").is_file()
