"""The first program in a user's sandbox; it gives up what is left to give up, then becomes the Jupyter server.

Run as `python -P -m habari.local.inside` with

    HABARI_LISTEN_FD  the listening socket that the hub made: no port is free for another to take in between
    HABARI_UID        the id to take, where root runs the platform
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import socket
import struct
import sys
from pathlib import Path
from typing import Any

_LANDLOCK_CREATE_RULESET, _LANDLOCK_RESTRICT_SELF = 444, 446  # the same numbers on every architecture
_LANDLOCK_CREATE_RULESET_VERSION = 1
_LANDLOCK_SCOPES = 0b11  # abstract Unix sockets, signals: https://docs.kernel.org/userspace-api/landlock.html
_FIRST_ABI_WITH_SCOPES = 6
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
    keep_to_own_sockets()
    runtime = os.environ.get("JUPYTER_RUNTIME_DIR")
    if runtime:
        Path(runtime).mkdir(mode=0o700, parents=True, exist_ok=True)
    listener = os.environ.pop("HABARI_LISTEN_FD", "")
    if listener:
        hand_over(int(listener))
    # Compiles a grammar of IRIs when imported, a second on a slow machine; jsonschema does without, and nothing here
    # validates an IRI.
    sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]  # None is how an import is refused
    from jupyterhub import singleuser  # noqa: PLC0415 - imported when nothing is left to give up

    sys.argv = ["jupyterhub-singleuser", *sys.argv[1:]]
    singleuser.main()


def take_id(uid: int) -> None:
    """Become that user and group for good; the capabilities go with it."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def keep_to_own_sockets() -> bool:
    """Cut this process and its children off from abstract Unix sockets outside, which no mount hides.

    Returns:
        Whether the kernel can do it (Linux 6.12 and later).
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(_LANDLOCK_CREATE_RULESET, None, 0, _LANDLOCK_CREATE_RULESET_VERSION) < _FIRST_ABI_WITH_SCOPES:
        return False
    attributes = struct.pack("=QQQ", 0, 0, _LANDLOCK_SCOPES)
    ruleset = libc.syscall(_LANDLOCK_CREATE_RULESET, attributes, len(attributes), 0)
    if ruleset < 0:
        return False
    try:
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        return bool(libc.syscall(_LANDLOCK_RESTRICT_SELF, ruleset, 0) == 0)
    finally:
        os.close(ruleset)


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
