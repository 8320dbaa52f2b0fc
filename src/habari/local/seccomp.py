"""A filter of system calls that closes the ways around Landlock's rules about TCP ports; used in users' sandboxes.

Landlock knows plain TCP. MPTCP and SMC sockets listen on the same ports, io_uring makes sockets without a filter
seeing it, and another architecture's system calls have other numbers: all of these answer as if the kernel lacked
them, which programs are prepared for. The filter's language: https://docs.kernel.org/userspace-api/seccomp_filter.html.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import struct
from typing import Any

_NATIVE = {"x86_64": (0xC000003E, 41), "aarch64": (0xC00000B7, 198)}
"""Audit number of an architecture, and the number of its `socket`; elsewhere there is no filter."""

_FOREIGN_BIT = 0x40000000  # the x32 system calls of x86-64
_IO_URING_SETUP = 425  # the same on every architecture
_AF_SMC = 43
_LAST_PLAIN_PROTOCOL = 255  # IPPROTO_SMC is 256, IPPROTO_MPTCP 262

_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _MODE_FILTER = 38, 22, 2
_LOAD, _JUMP_EQUAL, _JUMP_GREATER, _RETURN = 0x20, 0x15, 0x25, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_NUMBER, _ARCHITECTURE, _FAMILY, _PROTOCOL = 0, 4, 16, 32  # offsets in struct seccomp_data, little-endian


def program(machine: str) -> bytes:
    """Return the filter for an architecture as `platform.machine` names it; nothing for one that is not known."""
    if machine not in _NATIVE:
        return b""
    architecture, socket_number = _NATIVE[machine]
    # (code, operand, jump if true, jump if false): jumps count the instructions to leave out.
    instructions = (
        (_LOAD, _ARCHITECTURE, 0, 0),
        (_JUMP_EQUAL, architecture, 0, 9),
        (_LOAD, _NUMBER, 0, 0),
        (_JUMP_GREATER, _FOREIGN_BIT - 1, 7, 0),
        (_JUMP_EQUAL, _IO_URING_SETUP, 6, 0),
        (_JUMP_EQUAL, socket_number, 0, 4),
        (_LOAD, _FAMILY, 0, 0),
        (_JUMP_EQUAL, _AF_SMC, 4, 0),
        (_LOAD, _PROTOCOL, 0, 0),
        (_JUMP_GREATER, _LAST_PLAIN_PROTOCOL, 2, 0),
        (_RETURN, _ALLOW, 0, 0),
        (_RETURN, _ERRNO | errno.ENOSYS, 0, 0),
        (_RETURN, _ERRNO | errno.EPROTONOSUPPORT, 0, 0),
    )
    return b"".join(struct.pack("=HBBI", code, true, false, operand) for code, operand, true, false in instructions)


def apply(libc: Any) -> bool:
    """Put this process and all its children under the filter for good.

    Args:
        libc: The C library, loaded by `ctypes`.

    Returns:
        Whether it is in force.
    """
    found = program(platform.machine())
    if not found:
        return False
    kept = ctypes.create_string_buffer(found, len(found))
    header = struct.pack("@HP", len(found) // 8, ctypes.addressof(kept))
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    return bool(libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, header, 0, 0) == 0)
