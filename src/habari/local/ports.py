"""Chooses the loopback ports of the platform's parts and remembers them in the data folder."""

from __future__ import annotations

import errno
import socket
from collections.abc import Collection

from habari.core import errors
from habari.local import folder, freeports


def check_free(host: str, port: int) -> None:
    """Return if this process may listen there.

    Raises:
        ConfigError: If the port is taken, needs more rights, or the address is not of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            reason = {
                errno.EADDRINUSE: "another program listens there",
                errno.EACCES: "ports below 1024 need more rights",
                errno.EADDRNOTAVAIL: "this machine does not have that address",
            }.get(error.errno or 0, error.strerror)
            msg = f"Habari cannot listen on {host}:{port}: {reason}. Choose another port with --port."
            raise errors.ConfigError(msg) from error


def choose(data: folder.Folder, names: Collection[str], *, offsets: Collection[int] = (0,)) -> dict[str, int]:
    """Return a free loopback port for each name: the one of last time where it is still free.

    Args:
        data: The folder that remembers them.
        names: What the ports are for.
        offsets: A port counts as free if the ports at these distances from it are free too.

    Raises:
        ConfigError: If there are not enough free ports.
    """
    kept = data.read_json("ports.json")
    chosen = {
        name: port
        for name in names
        if isinstance(port := kept.get(name), int) and all(freeports.is_free(port + offset) for offset in offsets)
    }
    if missing := [name for name in names if name not in chosen]:
        chosen |= dict(zip(missing, freeports.find(len(missing), offsets=offsets), strict=True))
    data.write_json("ports.json", kept | chosen)
    return chosen
