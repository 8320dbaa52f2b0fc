"""The first program in a user's sandbox; it gives up what is left to give up, then becomes the Jupyter server.

Run as `python -I -m habari.local.inside`, because without `-I` Python runs code from the user's home before ours, with

    HABARI_LISTEN_FD  the listening socket that the hub made: no port is free for another to take in between
    HABARI_PORTS      the platform's own ports, with commas between them: nothing in the sandbox may listen there
    HABARI_UID        the id to take, where root runs the platform
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import site
import socket
import struct
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

from habari.local import seccomp

# https://docs.kernel.org/userspace-api/landlock.html; the numbers are the same on every architecture.
_LANDLOCK_CREATE_RULESET, _LANDLOCK_ADD_RULE, _LANDLOCK_RESTRICT_SELF = 444, 445, 446
_LANDLOCK_CREATE_RULESET_VERSION = 1
_LANDLOCK_RULE_NET_PORT = 2
_LANDLOCK_BIND_TCP = 0b1
_LANDLOCK_SCOPES = 0b11  # abstract Unix sockets, signals
_FIRST_ABI_WITH_PORTS = 4
_FIRST_ABI_WITH_SCOPES = 6
_FIRST_PORT, _LAST_PORT = 1024, 65535  # below, ports need a right that nobody has in a sandbox
_PR_SET_NO_NEW_PRIVS = 38
_OOM_SCORE = "500"
"""Short of memory, the kernel ends users' programs before the platform's: arbitrary, half of the scale."""


def main() -> None:
    """Give up rights, set up the private folder, and run the Jupyter server."""
    uid = os.environ.pop("HABARI_UID", "")
    if uid:
        take_id(int(uid))
    os.chdir(os.environ["HOME"])
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_OOM_SCORE)
    keep_to_own_sockets({int(port) for port in os.environ.pop("HABARI_PORTS", "").split(",") if port})
    add_own_packages()
    runtime = os.environ.get("JUPYTER_RUNTIME_DIR")
    if runtime:
        Path(runtime).mkdir(mode=0o700, parents=True, exist_ok=True)
    listener = os.environ.pop("HABARI_LISTEN_FD", "")
    if listener:
        hand_over(int(listener))
    from jupyterhub import singleuser  # noqa: PLC0415 - imported when nothing is left to give up

    sys.argv = ["jupyterhub-singleuser", *sys.argv[1:]]
    singleuser.main()


def take_id(uid: int) -> None:
    """Become that user and group for good; the capabilities go with it."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def keep_to_own_sockets(ports: Collection[int] = ()) -> bool:
    """Cut this process and its children off from sockets that no mount hides, as far as the kernel can.

    They reach no abstract Unix socket outside (Linux 6.12 and later), and do not listen on the platform's ports
    (Linux 6.7 and later): while a part of the platform is started again, its port is free, and whoever took it would
    be shown the passwords and tokens of everybody.

    Args:
        ports: The platform's TCP ports.

    Returns:
        Whether abstract Unix sockets are out of reach.

    Raises:
        SystemExit: If the kernel has these rules and does not take them: the server must not start then.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    abi = landlock_abi()
    binding = _LANDLOCK_BIND_TCP if ports and abi >= _FIRST_ABI_WITH_PORTS else 0
    scopes = _LANDLOCK_SCOPES if abi >= _FIRST_ABI_WITH_SCOPES else 0
    if not binding and not scopes:
        return False
    attributes = struct.pack("=QQQ", 0, binding, scopes)
    ruleset = libc.syscall(_LANDLOCK_CREATE_RULESET, attributes, len(attributes), 0)
    if ruleset < 0:
        raise _not_taken()
    try:
        if binding:
            _allow_ports(libc, ruleset, ports)
            seccomp.apply(libc)
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        if libc.syscall(_LANDLOCK_RESTRICT_SELF, ruleset, 0) != 0:
            raise _not_taken()
    finally:
        os.close(ruleset)
    return bool(scopes)


def landlock_abi() -> int:
    """Return the version of the kernel's Landlock; 0 or less where there is none."""
    libc = ctypes.CDLL(None, use_errno=True)
    return int(libc.syscall(_LANDLOCK_CREATE_RULESET, None, 0, _LANDLOCK_CREATE_RULESET_VERSION))


def keeps_ports() -> bool:
    """Tell whether this kernel can keep programs in a sandbox from the platform's ports (Linux 6.7 and later)."""
    return landlock_abi() >= _FIRST_ABI_WITH_PORTS


def _not_taken() -> SystemExit:
    return SystemExit("The server was not started: the kernel did not take the rules of its sandbox (Landlock).")


def _allow_ports(libc: Any, ruleset: int, taken: Collection[int]) -> None:
    # Landlock knows what is allowed only, one port a rule: 0.1 s for all of them. Port 0 asks for any free one.
    rule = (ctypes.c_uint64 * 2)(_LANDLOCK_BIND_TCP, 0)
    add, number = libc.syscall, _LANDLOCK_ADD_RULE
    for port in (0, *range(_FIRST_PORT, _LAST_PORT + 1)):
        if port not in taken:
            rule[1] = port
            if add(number, ruleset, _LANDLOCK_RULE_NET_PORT, rule, 0) != 0:
                raise _not_taken()


def add_own_packages() -> None:
    """Let the server import what its user installed at home, which `-I` has left out."""
    if sys.base_prefix in site.PREFIXES:  # else the environment keeps them out
        site.ENABLE_USER_SITE = True
        site.addsitedir(site.getusersitepackages())


def hand_over(fd: int) -> None:
    """Have tornado listen on this socket where it is asked for the socket's port."""
    from tornado import netutil  # noqa: PLC0415 - not needed otherwise

    os.set_inheritable(fd, False)  # noqa: FBT003 - positional only
    listener = socket.socket(fileno=fd)
    listener.setblocking(False)  # noqa: FBT003 - positional only
    port = listener.getsockname()[1]
    bind = netutil.bind_sockets

    def bind_sockets(wanted: int, *args: Any, **kwargs: Any) -> list[socket.socket]:
        # Jupyter asks twice: it closes the first answer, which only tells whether the port is free.
        return [listener.dup()] if wanted == port else bind(wanted, *args, **kwargs)

    netutil.bind_sockets = bind_sockets  # type: ignore[assignment]  # it takes whatever the first takes


if __name__ == "__main__":
    main()
