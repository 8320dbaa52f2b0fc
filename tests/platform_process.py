"""Runs `habari up` as a person would, on a folder and a free port; used by every test of the whole stack."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

NOTEBOOK_ENVIRONMENT = Path(os.environ.get("HABARI_NOTEBOOK_ENVIRONMENT", f"{sys.prefix}-notebook"))


class Platform:
    """One `habari up`.

    Args:
        folder: Its data folder, kept when it stops.
        arguments: More arguments for the command line.
        runner: A program that runs the command line, with its arguments.
    """

    def __init__(self, folder: Path, *arguments: str, runner: Sequence[str] = ()) -> None:
        """Prepare; nothing runs yet."""
        self.runner = runner
        self.folder = folder
        self.arguments = [*arguments, f"--notebook-environment={NOTEBOOK_ENVIRONMENT}"]
        self.lines: list[str] = []
        self.url = ""
        self.password = ""
        self._process: subprocess.Popen[str] | None = None
        self._changed = threading.Condition()

    @property
    def pid(self) -> int:
        assert self._process
        return self._process.pid

    def start(self, timeout_s: float = 90.0) -> None:
        """Start, and return when it says where to sign in."""
        self.lines = []
        self._process = subprocess.Popen(
            [
                *self.runner,
                sys.executable,
                "-m",
                "habari.cli",
                "up",
                f"--dir={self.folder}",
                "--port=0",
                *self.arguments,
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.wait_for("Stop with Ctrl-C", timeout_s)
        output = "\n".join(self.lines)
        self.url = re.search(r"Open (http\S+)", output)[1]  # type: ignore[index]
        if found := re.search(r"first password (\S+)", output):
            self.password = found[1]

    def wait_for(self, text: str, timeout_s: float = 60.0) -> None:
        """Return when a line with the text was printed."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while not any(text in line for line in self.lines):
                left = deadline - time.monotonic()
                ended = self._process and self._process.poll() is not None
                if left <= 0 or ended:
                    output = "\n".join(self.lines)
                    logs = "".join(f"\n--- {log}\n{log.read_text()[-3000:]}" for log in self.folder.glob("logs/*.log"))
                    msg = f"{'ended' if ended else 'timed out'} before {text!r}:\n{output}{logs}"
                    raise AssertionError(msg)
                self._changed.wait(min(left, 0.2))

    def stop(self, number: int = signal.SIGTERM, timeout_s: float = 60.0) -> int:
        """Send a signal and return the exit status."""
        assert self._process
        if self._process.poll() is None:
            self._process.send_signal(number)
        status = self._process.wait(timeout_s)
        self._reader.join(timeout_s)
        return status

    def processes(self) -> dict[int, str]:
        """Return the command lines of all live processes that belong to this platform, by process id."""
        found = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    environment = (entry / "environ").read_bytes().decode(errors="replace")
                except OSError:
                    continue
                if command and str(self.folder) in command + environment:
                    found[int(entry.name)] = command
        return found

    def _read(self) -> None:
        assert self._process
        assert self._process.stdout
        with self._process.stdout as output:
            for line in output:
                with self._changed:
                    self.lines.append(line.rstrip())
                    self._changed.notify_all()


def add_user(folder: Path, name: str, runner: Sequence[str] = ()) -> str:
    """Add an account with the command line and return its first password."""
    command = [*runner, sys.executable, "-m", "habari.cli", "user", "add", name, f"--dir={folder}"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
    return re.search(r"password (\S+)", printed)[1]  # type: ignore[index]
