"""What a hostile program in one user's sandbox reaches of the machine and of another user: tried, one by one."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from habari.core import errors
from habari.local import homes, sandbox, servers

SECRET = "the-secret-of-bob"

ATTACK = r"""
import ctypes, glob, json, os, signal, socket, sys
from habari.local import inside

if os.environ.get("HABARI_UID"):
    inside.take_id(int(os.environ["HABARI_UID"]))
os.chdir(os.environ["HOME"])
scoped = inside.keep_to_own_sockets()
told = json.loads(os.environ["TOLD"])
libc = ctypes.CDLL(None, use_errno=True)

def attempt(work):
    try:
        return str(work())
    except BaseException as error:
        return type(error).__name__

def abstract():
    with socket.socket(socket.AF_UNIX) as each:
        each.connect("\0" + told["abstract"])
        return "connected"

def write(name):
    with open(name, "w") as file:
        file.write("x")
    return "written"

def environments():
    found = b""
    for name in glob.glob("/proc/[0-9]*/environ"):
        try:
            found += open(name, "rb").read()
        except OSError:
            pass
    return told["terces"][::-1].encode() in found

def arguments():
    return [open(name).read() for name in glob.glob("/proc/[0-9]*/cmdline")]

result = {
    "scoped": scoped,
    "read": {name: attempt(lambda name=name: open(name).read()) for name in told["files"]},
    "list": {name: attempt(lambda name=name: os.listdir(name)) for name in told["folders"]},
    "write": {name: attempt(lambda name=name: write(name)) for name in told["targets"]},
    "environments": environments(),
    "processes": sorted(int(each) for each in os.listdir("/proc") if each.isdigit()),
    "signal": attempt(lambda: os.kill(told["pid"], signal.SIGTERM)),
    "ptrace": libc.ptrace(16, told["pid"], 0, 0),
    "mount": libc.mount(b"none", b"/mnt", b"tmpfs", 0, None),
    "chroot": attempt(lambda: os.chroot("/home")),
    "setuid": attempt(lambda: os.setuid(0)),
    "abstract": attempt(abstract),
    "capabilities": [line.split()[1] for line in open("/proc/self/status") if line.startswith(("CapEff", "CapPrm"))],
    "no_new_privs": [line.split()[1] for line in open("/proc/self/status") if line.startswith("NoNewPrivs")],
    "uid": os.getuid(),
    "home": attempt(lambda: write(os.environ["HOME"] + "/mine")),
    "tmp": os.listdir("/tmp"),
    "tmp_write": attempt(lambda: write("/tmp/mine")),
    "etc": sorted(os.listdir("/etc")),
    "run": os.listdir("/run"),
    "dev": sorted(os.listdir("/dev")),
    "sysctl": attempt(lambda: write("/proc/sys/kernel/core_pattern")),
    "hostname": os.uname().nodename,
    "session": os.getsid(0),
}
print(json.dumps(result))
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for name in ("secrets/store/access_key", "hub/jupyterhub.sqlite", "objects/1.dat", "storage/storage.sqlite"):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(SECRET)
        file.chmod(0o644)  # as careless as can be
    return folder


@contextlib.contextmanager
def run(data: Path, slug: str, code: str, **env: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run Python code in a user's sandbox, built as the spawner builds it."""
    home = homes.prepare(data, slug, sandboxed=True)
    environment = sandbox.read_environment(Path(sys.prefix))
    inside = sandbox.home_inside(slug, environment)
    box = sandbox.Sandbox(slug, home.path, inside, environment, (data.resolve(),), home.uid)
    with contextlib.ExitStack() as opened:
        fds = {}
        for name, text in (("passwd", sandbox.passwd(box)), ("group", sandbox.group(box))):
            fds[name] = os.memfd_create(name)
            opened.callback(os.close, fds[name])
            os.write(fds[name], text.encode())
            os.lseek(fds[name], 0, os.SEEK_SET)
        read_end, fds["info"] = os.pipe()
        answer = opened.enter_context(os.fdopen(read_end, "rb"))
        argv = sandbox.command(box, system=sandbox.read_system(), fds=fds)
        variables = {"HOME": inside, "PATH": "/usr/bin", **env}
        if home.uid is not None:
            variables["HABARI_UID"] = str(home.uid)
        process = subprocess.Popen(
            [*argv, str(environment.python), "-P", "-c", code],
            env=variables,
            pass_fds=list(fds.values()),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        os.close(fds["info"])
        first = json.loads(answer.read() or b"{}").get("child-pid")
        try:
            yield process
        finally:
            if first and (found := servers.find(first, sandboxed=True)):
                servers.end(found)
            process.communicate(timeout=20)


@pytest.fixture(scope="module")
def attacked(data: Path) -> dict[str, Any]:
    """Return what a program of ada's saw and could do while a server of bob's ran."""
    try:
        sandbox.check(uid=homes.FIRST_UID if os.geteuid() == 0 else None)
    except errors.ConfigError as error:
        pytest.skip(str(error))
    bobs_home = data / "homes" / "bob"
    bob = "import time; open('/tmp/bobs', 'w').close(); print('up', flush=True); time.sleep(60)"
    with contextlib.ExitStack() as opened:
        outside = opened.enter_context(socket.socket(socket.AF_UNIX))
        outside.bind("\0habari-test-abstract")
        outside.listen()
        victim = opened.enter_context(run(data, "bob", bob, SECRET=SECRET, HABARI_TEST="1"))
        assert victim.stdout
        assert victim.stdout.readline() == b"up\n", victim.stderr and victim.stderr.read()
        (bobs_home / "diary").write_text(SECRET)
        told = {
            "terces": SECRET[::-1],  # the attacker's own environment does not count
            "abstract": "habari-test-abstract",
            "pid": victim.pid,
            "files": [
                str(bobs_home / "diary"),
                "/home/bob/diary",
                "/etc/shadow",
                *(str(data / name) for name in ("secrets/store/access_key", "hub/jupyterhub.sqlite", "objects/1.dat")),
                f"/proc/{victim.pid}/environ",
                f"/proc/{victim.pid}/root{bobs_home}/diary",
            ],
            "folders": [str(data), "/home/bob", str(Path.home() / ".ssh"), "/var/lib", "/run/user", "/sys"],
            "targets": ["/usr/x", f"{sys.prefix}/x", "/etc/x", "/x"],
        }
        ada = opened.enter_context(run(data, "ada", ATTACK, TOLD=json.dumps(told)))
        out, err = ada.communicate(timeout=60)
        assert ada.returncode == 0, err.decode()
        assert victim.poll() is None, "bob's server still runs"
        result: dict[str, Any] = json.loads(out)
        result["arguments"] = Path(f"/proc/{victim.pid}/cmdline").read_bytes().decode()
        return result


def test_no_file_of_another_or_of_the_platform_is_read(attacked: dict[str, Any]) -> None:
    assert SECRET not in json.dumps(attacked["read"])
    assert set(attacked["read"].values()) <= {"FileNotFoundError", "PermissionError", "NotADirectoryError"}
    assert set(attacked["list"].values()) <= {"FileNotFoundError", "PermissionError"}


def test_nothing_outside_home_is_written(attacked: dict[str, Any]) -> None:
    assert set(attacked["write"].values()) <= {"OSError", "PermissionError"}
    assert attacked["sysctl"] in {"OSError", "PermissionError"}
    assert attacked["home"] == "written"
    assert attacked["tmp_write"] == "written"


def test_no_process_or_environment_of_another_is_seen(attacked: dict[str, Any]) -> None:
    assert not attacked["environments"]
    assert len(attacked["processes"]) <= 3
    assert attacked["signal"] == "ProcessLookupError"
    assert attacked["ptrace"] == -1
    assert SECRET not in attacked["arguments"], "no secret among the arguments either"


def test_no_right_is_left_or_regained(attacked: dict[str, Any]) -> None:
    assert set(attacked["capabilities"]) == {"0" * 16}
    assert attacked["no_new_privs"] == ["1"]
    assert attacked["mount"] == -1
    assert attacked["chroot"] == "PermissionError"
    assert attacked["setuid"] in {"PermissionError", "OSError"}
    assert attacked["uid"] not in {0, os.geteuid() if os.geteuid() != 1000 else 0}


def test_abstract_sockets_outside_are_closed_where_the_kernel_can(attacked: dict[str, Any]) -> None:
    if not attacked["scoped"]:
        pytest.skip("Landlock scopes need Linux 6.12")
    assert attacked["abstract"] == "PermissionError"


def test_the_machine_looks_small(attacked: dict[str, Any]) -> None:
    assert set(attacked["tmp"]) <= set(Path(sys.prefix).parts), "at most the environment that the test itself uses"
    assert not {"shadow", "ssh", "sudoers", "machine-id", "gshadow"} & set(attacked["etc"])
    assert not {"dbus", "user", "docker.sock", "systemd"} & set(attacked["run"])
    assert not {"sda", "kvm", "fuse", "mem", "kmsg", "vda"} & set(attacked["dev"])
    assert attacked["hostname"] == "habari"


@pytest.mark.parametrize(
    ("sysctls", "advice"),
    [
        ({"kernel.apparmor_restrict_unprivileged_userns": "1"}, "apparmor_restrict_unprivileged_userns=0"),
        ({"kernel.unprivileged_userns_clone": "0"}, "kernel.unprivileged_userns_clone=1"),
        ({"user.max_user_namespaces": "0"}, "user.max_user_namespaces=10000"),
        ({}, "In a container, give it the right to make namespaces"),
    ],
)
def test_where_sandboxes_are_not_allowed_the_operator_reads_how(sysctls: dict[str, str], advice: str) -> None:
    text = sandbox.explain("bwrap: setting up uid map: Permission denied", sysctls)
    assert "bubblewrap says 'setting up uid map: Permission denied'" in text
    assert advice in text
    assert text.endswith("Or run for one user only, with --no-isolation.")


def test_a_home_never_lies_above_the_environment() -> None:
    environment = sandbox.Environment(Path("/home/me/habari/env/bin/python"), (Path("/home/me/habari/env"),))
    assert sandbox.home_inside("ada", environment) == "/home/ada"
    assert sandbox.home_inside("me", environment) == "/srv/home/me"


def test_a_data_folder_inside_a_shown_folder_is_hidden() -> None:
    environment = sandbox.Environment(Path("/opt/env/bin/python"), (Path("/opt/env"),))
    box = sandbox.Sandbox("ada", Path("/opt/env/data/homes/ada"), "/home/ada", environment, (Path("/opt/env/data"),))
    argv = " ".join(sandbox.command(box, system={}, fds={"passwd": 3, "group": 4, "info": 5}))
    assert "--perms 0000 --tmpfs /opt/env/data" in argv
    assert argv.index("--ro-bind /opt/env /opt/env") < argv.index("--tmpfs /opt/env/data")


def test_each_home_has_an_id_of_its_own() -> None:
    assert homes.free_uid(set()) == homes.FIRST_UID
    assert homes.free_uid({homes.FIRST_UID, homes.FIRST_UID + 2}) == homes.FIRST_UID + 1
    with pytest.raises(errors.UnavailableError, match=r"All 10,000 ids for users' servers are taken"):
        homes.free_uid(set(range(homes.FIRST_UID, homes.FIRST_UID + homes.UID_COUNT)))


def test_without_isolation_one_user_only_is_let_in(tmp_path: Path) -> None:
    (tmp_path / "hub").mkdir()
    homes.check_only(tmp_path, "ada")
    homes.check_only(tmp_path, "ada")
    with pytest.raises(errors.NotPermittedError, match=r"runs without isolation, so only 'ada' may use it\. Start it"):
        homes.check_only(tmp_path, "bob")


def test_an_environment_that_cannot_be_used_is_said(tmp_path: Path) -> None:
    with pytest.raises(errors.ConfigError, match=r"The notebook environment .* cannot be used: .*No such file"):
        sandbox.read_environment(tmp_path)
