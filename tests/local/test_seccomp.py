"""What a program under the filter of system calls can no longer do, and what it still can; tried in a child process."""

from __future__ import annotations

import json
import platform
import struct
import subprocess
import sys

import pytest

from habari.local import seccomp

TRY = r"""
import ctypes, json, mmap, socket, sys
from habari.local import seccomp

libc = ctypes.CDLL(None, use_errno=True)
assert seccomp.apply(libc)

def opens(*arguments):
    try:
        socket.socket(*arguments).close()
    except OSError as error:
        return error.errno
    return 0

def calls(number, *arguments):
    ctypes.set_errno(0)
    return 0 if libc.syscall(number, *arguments) >= 0 else ctypes.get_errno()

print(json.dumps({
    "tcp": opens(socket.AF_INET, socket.SOCK_STREAM),
    "tcp6": opens(socket.AF_INET6, socket.SOCK_STREAM, 6),
    "udp": opens(socket.AF_INET, socket.SOCK_DGRAM),
    "unix": opens(socket.AF_UNIX, socket.SOCK_STREAM),
    "netlink": opens(socket.AF_NETLINK, socket.SOCK_RAW),
    "mptcp": opens(socket.AF_INET, socket.SOCK_STREAM, 262),
    "mptcp6": opens(socket.AF_INET6, socket.SOCK_STREAM, 262),
    "smc": opens(43, socket.SOCK_STREAM),
    "smc as a protocol": opens(socket.AF_INET, socket.SOCK_STREAM, 256),
    "io_uring": calls(425, 1, 0),
    "x32": calls(0x40000000 + 39),
}))
"""

needs_filter = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"), reason="no filter on this machine"
)


@needs_filter
def test_sockets_that_go_around_landlock_are_not_there() -> None:
    done = subprocess.run([sys.executable, "-c", TRY], capture_output=True, text=True, timeout=60, check=True)
    found = json.loads(done.stdout)
    missing, no_protocol = 38, 93
    assert {name: found[name] for name in ("tcp", "tcp6", "udp", "unix", "netlink")} == dict.fromkeys(
        ("tcp", "tcp6", "udp", "unix", "netlink"), 0
    )
    for name in ("mptcp", "mptcp6", "smc", "smc as a protocol"):
        assert found[name] == no_protocol, name
    for name in ("io_uring", "x32"):
        assert found[name] == missing, name


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_every_jump_of_the_filter_ends_at_an_answer(machine: str) -> None:
    instructions = list(struct.iter_unpack("=HBBI", seccomp.program(machine)))
    reached = {0}
    for index, (code, true, false, _) in enumerate(instructions):
        assert index in reached
        if code != 0x06:
            reached |= {index + 1 + true, index + 1 + false} if code in (0x15, 0x25) else {index + 1}
    assert max(reached) < len(instructions)
    assert instructions[-1][0] == 0x06


def test_a_machine_that_is_not_known_gets_no_filter() -> None:
    assert seccomp.program("riscv64") == b""
