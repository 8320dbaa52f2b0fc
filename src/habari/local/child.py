"""Runs a program that dies with its parent: executed as a script, so that it needs nothing but the standard library.

``python -I -S child.py PARENT_PID PROGRAM [ARGUMENT ...]`` raises the limit of open files to the hard limit,
asks the kernel for SIGTERM when the parent's thread ends, and becomes the program. Elsewhere than on Linux, where
that request does not exist, it only raises the limit.

Used for the parts of the platform on one machine, so that a killed supervisor leaves no process behind.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

_PR_SET_PDEATHSIG = 1
"""https://man7.org/linux/man-pages/man2/PR_SET_PDEATHSIG.2const.html."""


def command(argv: Sequence[str], *, parent: int | None = None) -> list[str]:
    """Return the command line that runs `argv` as a program that dies with its parent.

    Args:
        argv: The program and its arguments; one without a slash is looked for in the PATH of its own environment.
        parent: Process id of the parent; by default that of the caller.
    """
    script = str(Path(__file__).resolve())
    return [sys.executable, "-I", "-S", script, str(os.getpid() if parent is None else parent), *argv]


def main(argv: Sequence[str]) -> None:
    """Become the program; exit at once if the parent is gone already."""
    parent, program = int(argv[0]), list(argv[1:])
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            sys.exit(f"The parent process {parent} is gone; {program[0]!r} was not started.")
    os.execvp(program[0], program)  # noqa: S606 - becoming the program named by the caller is the purpose


if __name__ == "__main__":
    main(sys.argv[1:])
