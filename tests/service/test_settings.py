"""Each way in which the environment or the secrets folder can be wrong ends in one sentence."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from cryptography import fernet

from habari.core import errors
from habari.service import settings

KEY = fernet.Fernet.generate_key().decode()
FILES = {
    "store_access_key_id": "ADMIN",
    "store_secret_access_key": "the-store-secret",
    "encryption_keys": f"{KEY}\n{fernet.Fernet.generate_key().decode()}\n",
    "launch_token": "the-launch-token\n",
    "service_token": "the-service-token",
}


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    folder = tmp_path / "secrets"
    folder.mkdir(0o700)
    for name, text in FILES.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o600)
    return {
        "HABARI_SECRETS": str(folder),
        "HABARI_DATABASE_URL": f"sqlite:///{tmp_path}/storage.sqlite",
        "HABARI_STORE_URL": "http://127.0.0.1:8333",
        "HABARI_LISTEN": "127.0.0.1:8002",
        "JUPYTERHUB_API_URL": "http://127.0.0.1:8081/hub/api/",
    }


def refusal(environ: dict[str, str]) -> str:
    with pytest.raises(errors.ConfigError) as caught:
        settings.read(environ)
    return str(caught.value)


def test_everything_is_read(environ: dict[str, str]) -> None:
    told = settings.read(environ)
    assert (told.host, told.port, told.hub_api_url) == ("127.0.0.1", 8002, "http://127.0.0.1:8081/hub/api")
    assert told.tenant.name == "habari"
    assert told.secrets.launch_token == "the-launch-token"
    assert told.secrets.encryption_keys[0] == KEY
    assert len(told.secrets.encryption_keys) == 2


def test_no_secret_is_shown(environ: dict[str, str]) -> None:
    environ["HABARI_DATABASE_URL"] = "postgresql://habari:db-password@host/storage"
    shown = repr(settings.read(environ))
    for secret in ("the-store-secret", "the-launch-token", "the-service-token", KEY, "db-password"):
        assert secret not in shown


def test_a_declaration_is_read(environ: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "habari.yaml").write_text("name: lab")
    assert settings.read({**environ, "HABARI_CONFIG": str(tmp_path / "habari.yaml")}).tenant.name == "lab"


def test_addresses_of_six_groups_are_taken(environ: dict[str, str]) -> None:
    assert settings.read({**environ, "HABARI_LISTEN": "[::1]:80"}).host == "::1"


@pytest.mark.parametrize(
    ("name", "meaning"),
    [
        ("HABARI_LISTEN", "HOST:PORT to listen on, for example 127.0.0.1:8002"),
        ("HABARI_SECRETS", "the folder of the service's secrets"),
        ("HABARI_DATABASE_URL", "the database's address, for example sqlite:////var/lib/habari/storage.sqlite"),
        ("HABARI_STORE_URL", "the object store's address, for example http://127.0.0.1:8333"),
        ("JUPYTERHUB_API_URL", "the address of JupyterHub's API, for example http://127.0.0.1:8081/hub/api"),
    ],
)
def test_a_variable_that_is_not_set(environ: dict[str, str], name: str, meaning: str) -> None:
    del environ[name]
    assert refusal(environ) == f"The environment variable {name} is not set; expected {meaning}."


@pytest.mark.parametrize("value", ["8002", "host:", "host:port", "host:65536", ":1", "host:²"])
def test_an_address_to_listen_on_that_is_none(environ: dict[str, str], value: str) -> None:
    assert refusal({**environ, "HABARI_LISTEN": value}) == (
        f"The environment variable HABARI_LISTEN is {value!r}; "
        "expected HOST:PORT to listen on, for example 127.0.0.1:8002."
    )


def test_an_address_without_a_scheme(environ: dict[str, str]) -> None:
    assert refusal({**environ, "HABARI_STORE_URL": "127.0.0.1:8333"}) == (
        "The environment variable HABARI_STORE_URL is '127.0.0.1:8333'; "
        "expected the object store's address, for example http://127.0.0.1:8333."
    )


def test_a_declaration_that_is_missing_or_no_text(environ: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "habari.yaml"
    environ["HABARI_CONFIG"] = str(path)
    assert refusal(environ) == (
        f"The declaration {path} cannot be read: No such file or directory. HABARI_CONFIG names it."
    )
    path.write_bytes(b"\xff")
    assert refusal(environ) == f"The declaration {path} is not UTF-8 text. HABARI_CONFIG names it."
    path.write_text("colour: lab")
    assert refusal(environ).startswith(f"{path}, line 1: unknown key 'colour'")


@pytest.mark.parametrize("name", FILES)
def test_a_secret_that_is_missing(environ: dict[str, str], name: str) -> None:
    path = Path(environ["HABARI_SECRETS"], name)
    path.unlink()
    assert refusal(environ) == (
        f"The secret {path} cannot be read: No such file or directory. HABARI_SECRETS names its folder."
    )


def test_a_secret_that_is_empty_or_no_text(environ: dict[str, str]) -> None:
    path = Path(environ["HABARI_SECRETS"], "launch_token")
    path.write_text(" \n")
    assert refusal(environ) == f"The secret {path} is empty; write it anew."
    path.write_bytes(b"\xff")
    assert refusal(environ) == f"The secret {path} is not ASCII text; write it anew."


@pytest.mark.parametrize(("mode", "excess"), [(0o640, 0o040), (0o604, 0o004), (0o660, 0o060), (0o777, 0o077)])
def test_a_secret_that_is_open_to_others(environ: dict[str, str], mode: int, excess: int) -> None:
    path = Path(environ["HABARI_SECRETS"], "launch_token")
    path.chmod(mode)
    assert refusal(environ) == (
        f"The secret {path} is open to others (mode {mode:04o}, {excess:04o} too much): "
        "run chmod 600 on it, and make a new one if somebody may have read it."
    )


def test_a_mounted_secret_may_be_read_by_the_pods_group(
    environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in FILES:
        Path(environ["HABARI_SECRETS"], name).chmod(0o440)
    own = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: own + 1)
    assert settings.read(environ).secrets.launch_token == "the-launch-token"
    Path(environ["HABARI_SECRETS"], "launch_token").chmod(0o444)
    assert "is open to others (mode 0444, 0004 too much)" in refusal(environ)


def test_an_encryption_key_that_is_none(environ: dict[str, str]) -> None:
    path = Path(environ["HABARI_SECRETS"], "encryption_keys")
    path.write_text(f"{KEY}\nnot-a-key\n")
    assert refusal(environ) == (
        f"The secret {path} holds no Fernet key in line 2; "
        "expected 32 bytes in URL-safe base64, one key a line, the newest first."
    )
