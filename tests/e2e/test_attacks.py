"""A hostile user's kernel, reached through the hub, tries to get at files and programs that are not its user's.

Each test shows by a control that the same code gets at the attacker's own things. What else listens on this
machine is left alone: ports are found as an attacker finds them, and only this platform's are attacked.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import platform_process
import pytest
import pytest_asyncio
import scene as scenes

from habari.local import objectstore

pytestmark = [pytest.mark.hub, pytest.mark.asyncio(loop_scope="module")]

REFUSED = {400, 401, 403, 404, 405}
needs_port_rules = pytest.mark.skipif(scenes.landlock() < 4, reason="rules about ports need Landlock of Linux 6.7")
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[platform_process.Platform]:
    running = platform_process.Platform(tmp_path_factory.mktemp("habari") / "data")
    running.start()
    yield running
    assert running.stop() == 0
    assert running.processes() == {}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene(platform: platform_process.Platform) -> AsyncIterator[scenes.Scene]:
    async with scenes.opened(platform) as opened:
        yield opened


# Files


async def test_no_file_of_another_or_of_the_platform_opens(scene: scenes.Scene) -> None:
    files = [str(each) for each in scene.platform.folder.rglob("*") if each.is_file()]
    for part in ("secrets/hub/cookie_secret", "hub/jupyterhub.sqlite", "hub/accounts", "storage/storage.sqlite"):
        assert str(scene.platform.folder / part) in files
    assert any(each.endswith("homes/ada/diary-of-ada.txt") for each in files)
    assert any(each.endswith(".dat") for each in files)
    assert any("/logs/servers/ada.log" in each for each in files)
    outside = ["/etc/shadow", "/etc/sudoers", "/home/ada/diary-of-ada.txt"]
    outside += [str(each) for each in Path.home().iterdir() if each.is_file()]
    outside += [str(REPOSITORY / each) for each in (".git/HEAD", "pyproject.toml", "tests/hostile.py")]
    outside += [sys.executable, str(objectstore.find_program())]
    assert sum(os.access(each, os.R_OK) for each in outside) > 4
    await scene.do("mine = os.path.expanduser('~/mine.txt'); _ = Path(mine).write_text('mine')")
    assert await scene.get("opened([mine])") == await scene.get("[mine]")
    assert len(await scene.get("roots()")) > 4
    assert await scene.get(f"opened({files + outside!r})") == []


async def test_no_folder_of_another_is_seen(scene: scenes.Scene) -> None:
    assert await scene.get("os.listdir('/home')") == ["bob"]
    assert await scene.get("found('diary-of-ada.txt')") == []
    assert await scene.get("found('mine.txt')") == ["/home/bob/mine.txt"]
    for folder in (scene.platform.folder, Path.home() / ".ssh", REPOSITORY / "tests", "/var/lib", "/sys"):
        assert await scene.get(f"attempt(os.listdir, {str(folder)!r})") in ("FileNotFoundError", "PermissionError")


async def test_nothing_is_written_outside_the_home(scene: scenes.Scene) -> None:
    targets = [f"{scene.platform.folder}/x", f"{REPOSITORY}/src/habari/x.py", "/x", "/etc/x", "/usr/lib/x", "/home/x"]
    targets += ["/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/proc/1/mem"]
    written = await scene.get(f"[attempt(write, each) for each in {targets!r} + [sys.prefix + '/x']]")
    assert {each for each in written if each.startswith("got")} == set()
    assert (await scene.get("[attempt(write, each) for each in (mine, '/tmp/x')]"))[0].startswith("got")


async def test_the_server_gives_bobs_browser_no_file_outside(scene: scenes.Scene) -> None:
    for name, target in (("data", str(scene.platform.folder)), ("top", "/")):
        await scene.do(f"os.symlink({target!r}, os.path.expanduser('~/{name}'))")
    paths = ["data/homes/ada/diary-of-ada.txt", "data/secrets/hub/cookie_secret", "top/home/ada/diary-of-ada.txt"]
    paths += ["top/etc/shadow", "..%2f..%2fetc%2fshadow", "../../etc/shadow", "buckets/user-ada/diary.txt"]
    paths += ["buckets/user-bob/..%2fuser-ada%2fdiary.txt", "buckets/user-bob/../user-ada/diary.txt"]
    for path in paths:
        for kind in ("api/contents", "files"):
            async with scene.bob._session.get(f"{scene.bob.server}/{kind}/{path}") as answer:
                assert answer.status in REFUSED, (kind, path, await answer.text())
    assert (await scene.bob.contents("mine.txt"))["content"] == "mine"


# Processes


async def test_no_environment_or_argument_of_another_is_seen(scene: scenes.Scene) -> None:
    seen = await scene.get("texts_of_processes()")
    assert "JUPYTERHUB_USER=bob" in seen
    assert "JUPYTERHUB_USER=ada" not in seen
    assert "weed" not in seen
    assert "homes/ada" not in seen


async def test_no_process_of_another_is_reached(scene: scenes.Scene) -> None:
    pids = [*scene.platform.processes(), os.getpid()]
    assert len(pids) > 6
    inside = await scene.get("[int(each) for each in os.listdir('/proc') if each.isdigit()]")
    assert len(inside) < 20
    assert {each: await scene.get(f"reached({each})") for each in pids if each not in inside} == {
        each: [] for each in pids if each not in inside
    }
    assert {"signal", "pidfd", "trace", "memory"} <= set(await scene.get("reached(child())"))


async def test_a_namespace_of_ones_own_uncovers_nothing(scene: scenes.Scene) -> None:
    script = f"umount -l /etc/passwd /home/bob /tmp /proc; ls /home {scene.platform.folder}; cat /etc/shadow; id -u"
    said = (await scene.get(f"in_own_namespace({script!r})")).splitlines()
    assert "0" in said or not any("umount" in each for each in said), "the script ran as root of its own, or not at all"
    assert {"ada", "secrets", "homes"}.isdisjoint(said)
    assert not [each for each in said if each.startswith("root:")]


# Sockets


async def test_kernels_are_not_overheard(scene: scenes.Scene) -> None:
    found = await scene.get("sorted(listeners())")
    hers = [each for each in scene.hers_ports if each in found]
    assert hers, "her server listens, and is found"
    # His own kernel's sockets are left out: what it publishes of itself he may hear.
    names = await scene.get(
        "[each for each in unix_sockets() if 'kernel' in each"
        " and os.path.basename(each) not in os.listdir('/run/jupyter')]"
    )
    assert names, "the names of sockets are seen, hers among them"
    addresses = [f"tcp://127.0.0.1:{each}" for each in hers] + [f"ipc://{each}" for each in names]
    assert await scene.get(f"overhear({addresses!r})") == ""
    assert "control" in await scene.get("published()")


async def test_no_debugger_is_attached_to(scene: scenes.Scene) -> None:
    for port in scene.hers_ports:
        assert '"command"' not in await scene.get(f"attach({port})")
    assert '"command"' in await scene.get("attach(own_debugger())")


async def test_no_unix_socket_outside_is_reached(scene: scenes.Scene) -> None:
    names = await scene.get("unix_sockets()")
    assert "@habari-diary-of-ada" in names
    assert any("seaweedfs" in each for each in names)
    got = {each for each in names if await scene.get(f"connects({each!r})") == "got"}
    if scenes.landlock() < 6:
        got = {each for each in got if not each.startswith("@")}
    own = await scene.get("[f'/run/jupyter/{each}' for each in os.listdir('/run/jupyter') if '-ipc-' in each]")
    assert got <= set(own)
    control = "(lambda each: (each.bind('\\0own'), each.listen(), connects('@own'))[2])(socket.socket(socket.AF_UNIX))"
    assert await scene.get(control) == "got"


@needs_port_rules
async def test_no_port_of_the_platform_can_be_taken_while_a_part_is_away(scene: scenes.Scene) -> None:
    for port in scenes.all_ports(scene.ports):
        for family in ("AF_INET", "AF_INET6"):
            for protocol, said in ((0, "EACCES"), (262, "EPROTONOSUPPORT")):
                tried = f"listens({port}, protocol={protocol}, family=socket.{family})"
                assert await scene.get(tried) == said, tried
    free = await scene.get("next(each for each in range(11000, 12000) if each not in listeners())")
    for port in (0, free):
        assert await scene.get(f"[listens({port}), listens({port}, family=socket.AF_INET6)]") == ["got", "got"]


# Code that is there before the server


async def test_code_in_a_home_has_no_right_when_the_server_starts(platform: platform_process.Platform) -> None:
    """A `.pth` file among a user's own packages runs at each start of Python."""
    reserved = json.loads((platform.folder / "run" / "ports.json").read_text())["hub"] + objectstore.GRPC_OFFSET
    async with scenes.launched(platform, "eve") as eve:
        async with scenes.armed(eve) as kernel:
            assert await kernel.run(f"plant({reserved})") == ""
        await eve.stop_server()
        await eve.launch()
        async with scenes.armed(eve) as kernel:
            starts = await kernel.ask("print(json.dumps([json.loads(each) for each in open('/home/eve/starts')]))")
        await eve.stop_server()
    of_the_server = [each for each in starts if "habari.local.inside" in each["arguments"]]
    assert of_the_server, "it ran"
    for each in of_the_server:
        assert each["uid"] != 0
        assert set(each["capabilities"]) == {"0" * 16}
        assert each["written"] == []
        assert each["listens"] == "EACCES" or scenes.landlock() < 4
