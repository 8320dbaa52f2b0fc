"""The platform without what a laptop may not have: a network, and the rights of root."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import person
import platform_process
import pytest

pytestmark = pytest.mark.hub

_UID = 1234
_WITHOUT_NETWORK = """
import asyncio, fcntl, pathlib, socket, struct, sys
import person, platform_process

with socket.socket() as made:  # loopback alone, up: man 7 netdevice, SIOCSIFFLAGS with IFF_UP
    fcntl.ioctl(made, 0x8914, struct.pack("16sh", b"lo", 1))
platform = platform_process.Platform(pathlib.Path(sys.argv[1]))
platform.start()

async def story():
    async with person.Person(platform.url, "admin", platform.password) as admin:
        await admin.sign_in()
        await admin.launch()
        print(await admin.run(
            "import pandas; path = 's3://user-admin/x.csv'; pandas.DataFrame({'a': [20, 22]}).to_csv(path);"
            "print(pandas.read_csv(path).a.sum())"
        ))

asyncio.run(story())
assert platform.stop() == 0
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes a network of its own without a user namespace")
def test_no_network_is_needed(tmp_path: Path) -> None:
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-c", _WITHOUT_NETWORK, tmp_path / "data"],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)},
    )
    assert (done.returncode, done.stdout.strip()) == (0, "42"), done.stderr


def _as(uid: int, home: Path) -> list[str]:
    # setpriv itself still may read what root may; env no more.
    return ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "env", f"HOME={home}"]


def _may_run(uid: int) -> bool:
    tried = [*_as(uid, Path("/")), sys.executable, "-c", "import habari.cli"]
    return subprocess.run(tried, check=False, capture_output=True, timeout=60).returncode == 0


@pytest.mark.skipif(os.geteuid() != 0 or not _may_run(_UID), reason="needs root, and a checkout that others may read")
async def test_an_ordinary_user_runs_it_for_two_people(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    os.chown(folder, _UID, _UID)
    for each in (tmp_path, *tmp_path.parents):
        if each.stat().st_mode & 0o005 != 0o005 and each.stat().st_uid == os.geteuid():
            each.chmod(each.stat().st_mode | 0o005)
    runner = _as(_UID, folder)
    platform = platform_process.Platform(folder, runner=runner)
    platform.start()
    try:
        for name, password in (("admin", platform.password), ("lin", platform_process.add_user(folder, "lin", runner))):
            async with person.Person(platform.url, name, password) as user:
                assert await user.sign_in() == 200
                await user.launch()
                assert await user.names("buckets") == ["lake", "notebooks", f"user-{name}"]
                assert await user.run("import os; print(os.listdir('/home'))") == f"['{name}']\n"
    finally:
        assert platform.stop() == 0
    assert platform.processes() == {}
