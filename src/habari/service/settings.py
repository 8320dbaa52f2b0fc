"""What the storage service is told from outside: the environment and a folder of secrets.

Read once by `__main__`, before anything starts, so that whatever is wrong ends in one sentence.
"""

from __future__ import annotations

import dataclasses
import os
import stat
from collections.abc import Mapping
from pathlib import Path

from cryptography import fernet

from habari.core import config, errors, model


@dataclasses.dataclass(frozen=True)
class Secrets:
    """The service's secrets; none is part of `repr`.

    Attributes:
        store_key: The object store's administrator key.
        encryption_keys: Fernet keys that seal users' keys in the database, newest first.
        launch_token: What the hub shows when it ensures a user.
        service_token: The service's own token at the hub.
    """

    store_key: model.AccessKey = dataclasses.field(repr=False)
    encryption_keys: tuple[str, ...] = dataclasses.field(repr=False)
    launch_token: str = dataclasses.field(repr=False)
    service_token: str = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything the service needs to start.

    Attributes:
        tenant: The declaration.
        secrets: What nobody else may read.
        database_url: SQLAlchemy's address of the database, without a driver's secret in a log line.
        store_url: S3 endpoint, as the service reaches it.
        host: Address to listen on.
        port: Port to listen on.
        hub_api_url: JupyterHub's REST API, without a slash at its end.
    """

    tenant: config.Tenant
    secrets: Secrets
    database_url: str = dataclasses.field(repr=False)
    store_url: str
    host: str
    port: int
    hub_api_url: str


def read(environ: Mapping[str, str]) -> Settings:
    """Return the settings that an environment and the files it names describe.

    Raises:
        ConfigError: If a variable is not set or a file is missing, unreadable, open to others or malformed;
            the message names it.
    """
    host, port = _listen(_variable(environ, "HABARI_LISTEN"))
    return Settings(
        tenant=_tenant(environ.get("HABARI_CONFIG", "")),
        secrets=_secrets(Path(_variable(environ, "HABARI_SECRETS"))),
        database_url=_variable(environ, "HABARI_DATABASE_URL"),
        store_url=_url(environ, "HABARI_STORE_URL"),
        host=host,
        port=port,
        hub_api_url=_url(environ, "JUPYTERHUB_API_URL"),
    )


_MEANING = {
    "HABARI_LISTEN": "HOST:PORT to listen on, for example 127.0.0.1:8002",
    "HABARI_SECRETS": "the folder of the service's secrets",
    "HABARI_DATABASE_URL": "the database's address, for example sqlite:////var/lib/habari/storage.sqlite",
    "HABARI_STORE_URL": "the object store's address, for example http://127.0.0.1:8333",
    "JUPYTERHUB_API_URL": "the address of JupyterHub's API, for example http://127.0.0.1:8081/hub/api",
}


def _variable(environ: Mapping[str, str], name: str) -> str:
    if value := environ.get(name, ""):
        return value
    msg = f"The environment variable {name} is not set; expected {_MEANING[name]}."
    raise errors.ConfigError(msg)


def _url(environ: Mapping[str, str], name: str) -> str:
    value = _variable(environ, name)
    if not value.startswith(("http://", "https://")):
        msg = f"The environment variable {name} is {value!r}; expected {_MEANING[name]}."
        raise errors.ConfigError(msg)
    return value.rstrip("/")


def _listen(value: str) -> tuple[str, int]:
    host, _, port = value.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:  # noqa: PLR2004 - the largest port
        msg = f"The environment variable HABARI_LISTEN is {value!r}; expected {_MEANING['HABARI_LISTEN']}."
        raise errors.ConfigError(msg)
    return host.removeprefix("[").removesuffix("]"), int(port)


def _tenant(path: str) -> config.Tenant:
    if not path:
        return config.parse("")
    try:
        return config.parse(Path(path).read_text(encoding="utf-8"), source=path)
    except OSError as error:
        msg = f"The declaration {path} cannot be read: {error.strerror}. HABARI_CONFIG names it."
        raise errors.ConfigError(msg) from error
    except UnicodeDecodeError as error:
        msg = f"The declaration {path} is not UTF-8 text. HABARI_CONFIG names it."
        raise errors.ConfigError(msg) from error


def _secrets(folder: Path) -> Secrets:
    keys = tuple(_secret(folder / "encryption_keys").split())
    for number, key in enumerate(keys, 1):
        try:
            fernet.Fernet(key)
        except ValueError as error:
            msg = (
                f"The secret {folder / 'encryption_keys'} holds no Fernet key in line {number}; "
                "expected 32 bytes in URL-safe base64, one key a line, the newest first."
            )
            raise errors.ConfigError(msg) from error
    return Secrets(
        store_key=model.AccessKey(_secret(folder / "store_access_key_id"), _secret(folder / "store_secret_access_key")),
        encryption_keys=keys,
        launch_token=_secret(folder / "launch_token"),
        service_token=_secret(folder / "service_token"),
    )


def _secret(path: Path) -> str:
    try:
        state = path.stat()
        text = path.read_text(encoding="ascii")
    except OSError as error:
        msg = f"The secret {path} cannot be read: {error.strerror}. HABARI_SECRETS names its folder."
        raise errors.ConfigError(msg) from error
    except UnicodeDecodeError as error:
        msg = f"The secret {path} is not ASCII text; write it anew."
        raise errors.ConfigError(msg) from error
    # Kubernetes mounts secrets as root's and lets the pod read them through its group.
    allowed = stat.S_IRWXU if state.st_uid == os.geteuid() else stat.S_IRWXU | stat.S_IRGRP
    if excess := stat.S_IMODE(state.st_mode) & ~allowed & 0o777:
        msg = (
            f"The secret {path} is open to others (mode {stat.S_IMODE(state.st_mode):04o}, {excess:04o} too much): "
            "run chmod 600 on it, and make a new one if somebody may have read it."
        )
        raise errors.ConfigError(msg)
    if not text.strip():
        msg = f"The secret {path} is empty; write it anew."
        raise errors.ConfigError(msg)
    return text.strip()
