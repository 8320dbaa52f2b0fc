from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

from habari.local import sandbox


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
    argv = sandbox.command(box, system=sandbox.read_system(), fds={"passwd": 0, "group": 0, "info": 2})
    for flag in ("--ro-bind-data", "--ro-bind-data", "--info-fd"):
        at = argv.index(flag)
        del argv[at : at + (2 if flag == "--info-fd" else 3)]
    shown = subprocess.run(
        [*argv, str(read.python), "-I", "-c", f"import os, ssl; print(os.listdir({str(operator)!r}))"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (shown.stdout, shown.returncode) == ("['bin']\n", 0), shown.stderr
