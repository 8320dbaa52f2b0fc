from __future__ import annotations

import os
import re
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest


def _habari(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "habari.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def _refused(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode == 2, result
    assert "Traceback" not in result.stderr
    return result.stderr.strip()


def test_a_broken_declaration_is_refused_with_its_line(tmp_path: Path) -> None:
    declaration = tmp_path / "habari.yaml"
    declaration.write_text("name: team\nlisten:\n  prot: 9000\n")
    assert _refused(_habari("up", "--dir", tmp_path / "data", "--config", declaration)) == (
        f"habari: {declaration}, line 3: unknown key 'listen.prot'; "
        "expected one of: host, port, public_url, subdomains, tls."
    )
    declaration.write_text("listen:\n  port: high\n")
    assert "line 2: listen.port: should be a valid integer, found 'high'" in _refused(
        _habari("up", "--dir", tmp_path / "data", "--config", declaration)
    )
    assert not (tmp_path / "data").exists()


def test_a_missing_declaration_is_refused(tmp_path: Path) -> None:
    missing = tmp_path / "missing.yaml"
    assert _refused(_habari("up", "--dir", tmp_path / "data", "--config", missing)) == (
        f"habari: The declaration {missing} cannot be read: No such file or directory. "
        "Mend it, or name another with --config."
    )


def test_the_declaration_in_the_data_folder_is_found(tmp_path: Path) -> None:
    (tmp_path / "habari.yaml").write_text("nam: team\n")
    assert "unknown key 'nam'" in _refused(_habari("up", "--dir", tmp_path))


def test_a_taken_port_is_refused(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert _refused(_habari("up", "--dir", tmp_path / "data", "--port", str(port))) == (
            f"habari: Habari cannot listen on 127.0.0.1:{port}: another program listens there. "
            "Choose another port with --port."
        )


def test_an_unwritable_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert f"The data folder {tmp_path}/file/data cannot be written: Not a directory." in _refused(
        _habari("up", "--dir", tmp_path / "file" / "data")
    )


def test_listening_to_the_world_needs_tls_or_a_proxy(tmp_path: Path) -> None:
    declaration = tmp_path / "habari.yaml"
    declaration.write_text("listen:\n  host: 0.0.0.0\n")
    assert "listen.host is 0.0.0.0: passwords would cross the network in clear." in _refused(
        _habari("up", "--dir", tmp_path / "data", "--config", declaration)
    )


@pytest.mark.parametrize(
    ("listen", "option", "why"),
    [
        ("host: '::'\n  tls:\n    certificate: /x\n    key: /x", "--port=8000", "it is no address"),
        ("host: 127.0.0.1", "--behind-proxy", "a proxy in front answers under an address of its own"),
    ],
)
def test_what_people_type_must_be_known(tmp_path: Path, listen: str, option: str, why: str) -> None:
    declaration = tmp_path / "habari.yaml"
    declaration.write_text(f"listen:\n  {listen}\n")
    host = "::" if "::" in listen else "127.0.0.1"
    assert _refused(_habari("up", "--dir", tmp_path / "data", "--config", declaration, option)) == (
        f"habari: listen.public_url is missing, and listen.host {host} does not tell what people type: {why}. "
        "Set listen.public_url, for example to https://habari.example.org."
    )


def test_a_missing_notebook_environment_is_refused(tmp_path: Path) -> None:
    arguments = ("up", "--dir", tmp_path / "data", "--port", "0", "--notebook-environment", tmp_path / "none")
    assert _refused(_habari(*arguments)) == (
        f"habari: The notebook environment {tmp_path}/none is missing or not complete. "
        "Make it with: make setup, or name another with --notebook-environment."
    )


def test_nothing_runs_on_a_new_folder(tmp_path: Path) -> None:
    status = _habari("status", "--dir", tmp_path)
    assert (status.returncode, status.stdout.strip()) == (3, f"Habari does not run on {tmp_path}.")
    down = _habari("down", "--dir", tmp_path)
    assert (down.returncode, down.stdout.strip()) == (0, f"Habari does not run on {tmp_path}.")


def test_accounts_are_made_listed_and_removed(tmp_path: Path) -> None:
    made = _habari("user", "add", "ada", "--admin", "--dir", tmp_path)
    assert made.returncode == 0, made
    password = re.search(r"password (\S+)", made.stdout)[1]  # type: ignore[index]
    assert _habari("user", "add", "grace", "--dir", tmp_path).returncode == 0
    listed = _habari("user", "list", "--dir", tmp_path).stdout
    assert re.search(r"ada\s+yes\s+not changed yet", listed)
    assert password not in listed
    assert "There is an account 'ada' already." in _refused(_habari("user", "add", "ada", "--dir", tmp_path))
    again = _habari("user", "password", "ada", "--dir", tmp_path).stdout
    assert password not in again
    assert _habari("user", "remove", "grace", "--dir", tmp_path).returncode == 0
    assert "last administrator" in _refused(_habari("user", "remove", "ada", "--dir", tmp_path))
    for each in tmp_path.rglob("*"):
        assert stat.S_IMODE(each.stat().st_mode) & 0o077 == 0, each
        assert each.is_dir() or password.encode() not in each.read_bytes()


@pytest.mark.parametrize("command", ["up", "status", "down"])
def test_a_folder_that_may_not_be_entered_is_refused(tmp_path: Path, command: str) -> None:
    closed = tmp_path / "closed"
    closed.mkdir()
    closed.chmod(0)
    arguments = [sys.executable, "-m", "habari.cli", command, "--dir", str(closed / "data")]
    if os.geteuid() == 0:
        # Root enters every folder, unless it gives that right up.
        arguments = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", *arguments]
    result = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)
    assert "Permission denied" in _refused(result)
