"""What `habari up` was asked for, checked and written down before anything starts; called by the command line."""

from __future__ import annotations

import dataclasses
import secrets
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from cryptography import fernet

from habari.core import config, errors
from habari.local import folder, objectstore, ports, sandbox, secretfiles

_PORTS = ("hub", "storage", "proxy-api")
_OFFSETS = (0, objectstore.GRPC_OFFSET)
_ANYWHERE = ("0.0.0.0", "::")  # noqa: S104 - compared only


@dataclasses.dataclass(frozen=True)
class Options:
    """What the command line was given.

    Attributes:
        dir: The data folder.
        config: The declaration; None takes `habari.yaml` in the data folder, or the defaults.
        port: Overrides `listen.port`.
        notebook_environment: The virtual environment that users' servers run in.
        behind_proxy: Another proxy in front speaks TLS.
        isolation: Run each user's server in a sandbox; without it one user only is let in.
    """

    dir: Path
    config: Path | None = None
    port: int | None = None
    notebook_environment: Path = dataclasses.field(default_factory=lambda: Path(f"{sys.prefix}-notebook"))
    behind_proxy: bool = False
    isolation: bool = True


@dataclasses.dataclass(frozen=True)
class Plan:
    """What the platform runs on and where its parts meet; made by `prepare`."""

    data: folder.Folder
    tenant: config.Tenant
    options: Options
    ports: Mapping[str, int]
    store: objectstore.Store

    @property
    def url(self) -> str:
        """The address that people type."""
        return self.tenant.listen.url

    @property
    def bind_url(self) -> str:
        """The address that the proxy listens on, as this machine reaches it."""
        listen = self.tenant.listen
        host = "127.0.0.1" if listen.host in ("0.0.0.0", "localhost") else listen.host  # noqa: S104 - compared only
        return f"{'https' if listen.tls else 'http'}://{f'[{host}]' if ':' in host else host}:{listen.port}"

    @property
    def hub_url(self) -> str:
        """The hub's own address, on loopback."""
        return f"http://127.0.0.1:{self.ports['hub']}"

    @property
    def storage_url(self) -> str:
        """The storage service's own address, on loopback."""
        return f"http://127.0.0.1:{self.ports['storage']}/services/storage/"

    @property
    def all_ports(self) -> list[int]:
        """Every port that a part of the platform listens on."""
        return sorted(
            {self.tenant.listen.port, *(port + offset for port in self.ports.values() for offset in _OFFSETS)}
        )


def load(options: Options) -> config.Tenant:
    """Return the declaration with the command line's overrides.

    Raises:
        ConfigError: If it cannot be read, is wrong, would listen to the world without TLS, or leaves open which
            address people type.
    """
    file = options.config or options.dir.expanduser() / "habari.yaml"
    try:
        text = file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        if options.config or not isinstance(error, FileNotFoundError | NotADirectoryError):
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            msg = f"The declaration {file} cannot be read: {reason}. Mend it, or name another with --config."
            raise errors.ConfigError(msg) from error
        text = ""
    tenant = config.parse(text, source=str(file))
    listen = tenant.listen
    if options.port is not None:
        listen = listen.model_copy(update={"port": options.port})
    if listen.host not in config.LOOPBACK and not listen.tls and not options.behind_proxy:
        msg = (
            f"listen.host is {listen.host}: passwords would cross the network in clear. "
            "Set listen.tls to a certificate and its key, or pass --behind-proxy if a proxy in front speaks TLS."
        )
        raise errors.ConfigError(msg)
    if not listen.public_url and (listen.host in _ANYWHERE or options.behind_proxy):
        why = "a proxy in front answers under an address of its own" if options.behind_proxy else "it is no address"
        msg = (
            f"listen.public_url is missing, and listen.host {listen.host} does not tell what people type: {why}. "
            "Set listen.public_url, for example to https://habari.example.org."
        )
        raise errors.ConfigError(msg)
    return tenant.model_copy(update={"listen": listen})


def prepare(options: Options, tenant: config.Tenant, data: folder.Folder) -> Plan:
    """Check what the platform needs and write the settings of its parts; nothing is started.

    Raises:
        ConfigError: If a port is taken, the notebook environment is missing, or sandboxes are not allowed.
    """
    listen = tenant.listen
    if listen.port == 0:
        listen = listen.model_copy(update=ports.choose(data, ["port"]))
        tenant = tenant.model_copy(update={"listen": listen})
    ports.check_free(listen.host, listen.port)
    if not (options.notebook_environment / "bin" / "jupyterhub-singleuser").exists():
        msg = (
            f"The notebook environment {options.notebook_environment} is missing or not complete. "
            "Make it with: make setup, or name another with --notebook-environment."
        )
        raise errors.ConfigError(msg)
    if options.isolation:
        sandbox.check_machine(options.notebook_environment)
    # One call, so that no two parts get the same port.
    chosen = ports.choose(data, [*_PORTS, *objectstore.PORTS], offsets=_OFFSETS)
    store = objectstore.Store(
        folder=data.path / "objects",
        secrets=data.path / "secrets",
        ports={name: chosen[name] for name in objectstore.PORTS},
        reserve_gib=tenant.store.reserve_gib,
    )
    store.prepare()
    _make_secrets(data)
    effective = tenant.model_dump_json(exclude_none=True).encode()
    secretfiles.write(data.path / "run" / "habari.yaml", effective)
    return Plan(data, tenant, options, chosen, store)


def _make_secrets(data: folder.Folder) -> None:
    def shared(name: str, *holders: str, make: Callable[[], str] = lambda: secrets.token_hex(32)) -> None:
        value = secretfiles.ensure(data.secret_file(holders[0], name), make)
        for holder in holders[1:]:
            secretfiles.write(data.secret_file(holder, name), value.encode())

    shared("launch_token", "hub", "storage")
    shared("service_token", "hub", "storage")
    shared("encryption_keys", "storage", make=lambda: fernet.Fernet.generate_key().decode())
    for name in ("cookie_secret", "crypt_key", "culler_token", "proxy_password"):
        shared(name, "hub")
