from __future__ import annotations

import shutil
import subprocess

from habari.local import child


def test_a_child_gets_the_highest_limit_of_open_files_and_its_arguments() -> None:
    shown = subprocess.run(
        child.command([shutil.which("sh") or "", "-c", 'ulimit -n; ulimit -Hn; echo "$0 $1"', "a b", "*"]),
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    ).stdout.splitlines()
    assert shown[0] == shown[1]
    assert shown[2] == "a b *"


def test_a_child_whose_parent_is_gone_does_not_start() -> None:
    ended = subprocess.run(child.command(["echo", "started"], parent=1), capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert ended.stderr == "The parent process 1 is gone; 'echo' was not started.\n"
