from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from habari.local import sandbox


def _run_inside(box: sandbox.Sandbox, code: str) -> subprocess.CompletedProcess[str]:
    """Run code as the sandbox's first program: nothing has been given up yet."""
    argv = sandbox.command(box, system=sandbox.read_system(), fds={"passwd": 0, "group": 0, "info": 2})
    for flag, values in (("--ro-bind-data", 2), ("--ro-bind-data", 2), ("--info-fd", 1)):
        at = argv.index(flag)
        del argv[at : at + 1 + values]
    command = [*argv, str(box.environment.python), "-I", "-c", code]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("setting", ["kernel/core_pattern", "vm/overcommit_memory"])
def test_even_root_in_a_sandbox_changes_no_setting_of_the_kernel(tmp_path: Path, setting: str) -> None:
    box = sandbox.Sandbox(
        "ada",
        tmp_path,
        "/home/ada",
        sandbox.read_environment(Path(sys.prefix)),
        uid=50_000 if os.geteuid() == 0 else None,
    )
    done = _run_inside(box, f"import os; os.open('/proc/sys/{setting}', os.O_WRONLY)")
    assert done.returncode == 1
    assert "Read-only file system" in done.stderr or "Permission denied" in done.stderr, done.stderr
    assert _run_inside(box, f"import os; os.open('/proc/sys/{setting}', os.O_RDONLY)").returncode == 0


def test_a_link_to_the_interpreter_does_not_show_the_folder_that_holds_it(tmp_path: Path) -> None:
    # As a tool leaves it that puts Python's link among the operator's own programs.
    operator = tmp_path / "operator"
    (operator / "bin").mkdir(parents=True)
    (operator / "diary.txt").write_text("private")
    link = operator / "bin" / "python3"
    link.symlink_to(Path(sys.executable).resolve())
    environment = tmp_path / "environment"
    subprocess.run([link, "-m", "venv", "--without-pip", environment], check=True, timeout=60)
    packages = environment / "lib" / f"python{sysconfig.get_python_version()}" / "site-packages"
    (packages / "others.pth").write_text(f"{sysconfig.get_path('purelib')}\n{Path(sandbox.__file__).parents[2]}\n")
    read = sandbox.read_environment(environment)
    assert operator not in read.folders
    assert operator / "bin" not in read.folders
    assert link in [each for each, _ in read.links]
    home = tmp_path / "home"
    home.mkdir()
    box = sandbox.Sandbox("ada", home, "/home/ada", read)
    shown = _run_inside(box, f"import os, ssl; print(os.listdir({str(operator)!r}))")
    assert (shown.stdout, shown.returncode) == ("['bin']\n", 0), shown.stderr
