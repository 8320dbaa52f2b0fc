"""Finds ports on loopback that nothing listens on."""

from __future__ import annotations

import random
import socket
from collections.abc import Collection

from habari.core import errors

FIRST, LAST = 12000, 22000
"""Where free ports are looked for: also 10,000 above them is below what Linux hands out to outgoing connections."""


def find(count: int, *, offsets: Collection[int] = (0,)) -> list[int]:
    """Return that many ports on which nothing listens now, on any address, nor at these offsets from them.

    Raises:
        ConfigError: If there are not enough.
    """
    candidates = list(range(FIRST, LAST))
    random.shuffle(candidates)
    found: list[int] = []
    for port in candidates:
        if all(is_free(port + offset) for offset in offsets):
            found.append(port)
            if len(found) == count:
                return found
    msg = (
        f"Only {len(found)} of {count} free ports were found between {FIRST} and {LAST}; stop a program that uses many."
    )
    raise errors.ConfigError(msg)


def require(port: int, *, offsets: Collection[int] = (0,)) -> None:
    """Return if nothing listens on the port, nor at these offsets from it.

    Raises:
        ConfigError: If something does.
    """
    for offset in offsets:
        if not is_free(port + offset):
            msg = f"Port {port + offset} is taken by another program; stop that program, or choose another port."
            raise errors.ConfigError(msg)


def is_free(port: int) -> bool:
    """Return whether the port can be listened on, on every address."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True
