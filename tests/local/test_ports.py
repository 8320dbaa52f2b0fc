from __future__ import annotations

import socket
from pathlib import Path

import pytest

from habari.core import errors
from habari.local import folder, ports


def test_a_taken_port_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(errors.ConfigError) as caught:
            ports.check_free("127.0.0.1", port)
    assert str(caught.value) == (
        f"Habari cannot listen on 127.0.0.1:{port}: another program listens there. Choose another port with --port."
    )


def test_an_address_of_another_machine_is_named() -> None:
    with pytest.raises(errors.ConfigError, match=r"192\.0\.2\.1:0: this machine does not have that address"):
        ports.check_free("192.0.2.1", 0)


def test_ports_are_remembered_while_they_are_free(tmp_path: Path) -> None:
    data = folder.Folder.prepare(tmp_path)
    first = ports.choose(data, ["hub", "storage"])
    assert len(set(first.values())) == 2
    assert ports.choose(data, ["hub", "storage"]) == first
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", first["hub"]))
        taken.listen()
        again = ports.choose(data, ["hub", "storage"])
    assert again["hub"] != first["hub"]
    assert again["storage"] == first["storage"]
