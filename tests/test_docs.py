from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parent.parent
_PAGES = [_ROOT / "README.md", *(_ROOT / "docs").glob("*.md")]


def test_the_declaration_is_documented_as_it_is() -> None:
    document = runpy.run_path(str(_ROOT / "tools" / "document-config"))["document"]
    assert (_ROOT / "docs" / "habari-yaml.md").read_text() == document(), "run: make docs"


def test_every_locked_package_is_among_the_licences() -> None:
    listed = set(re.findall(r"^\| ([a-z0-9-]+) \|", (_ROOT / "docs" / "licences.md").read_text(), re.MULTILINE))
    locked = runpy.run_path(str(_ROOT / "tools" / "document-licences"))["locked"]
    elsewhere = {"appnope", "colorama", "pywin32", "pywinpty", "tzdata", "win32-setctime", "greenlet"}
    for lock in ("platform", "notebook"):
        names = {re.sub(r"[-_.]+", "-", name) for name in locked(lock)}
        assert names - listed - elsewhere == set(), "run: make docs"


@pytest.mark.parametrize("page", _PAGES, ids=lambda page: page.name)
def test_every_link_to_a_file_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_no_lock_names_the_host_of_a_registry() -> None:
    for lock in (_ROOT / "requirements").glob("*.lock"):
        assert "://" not in lock.read_text(), lock
