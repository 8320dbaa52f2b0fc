"""`configure(c)`: everything that a hub needs to be Habari's, from habari.yaml and a few variables.

Variables, on every target:

    HABARI_CONFIG       path of habari.yaml; absent: the defaults
    HABARI_SECRETS      folder with `launch_token`, `service_token`, `cookie_secret` and `crypt_key`, one secret a file
    HABARI_STORAGE_URL  where hub and user servers reach the storage service: http://HOST:PORT/services/storage/
    HABARI_PUBLIC_URL   the address people type; absent: that of habari.yaml
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from jupyterhub.spawner import LocalProcessSpawner, Spawner
from traitlets.utils.importstring import import_item

from habari.core import config, errors
from habari.hub import client, identity, launch

SCOPES = {
    "custom:habari:keys:read": {"description": "Read one's own keys of the object store."},
    "custom:habari:buckets:read": {"description": "Read the list of one's own buckets."},
}
"""Custom scopes: https://jupyterhub.readthedocs.io/en/stable/rbac/scopes.html#custom-scopes."""

SERVER_SCOPES = ["users:activity!user", "access:servers!server", *(f"{scope}!user" for scope in SCOPES)]
"""All that the token of a user's server may do: JupyterHub's own two, and reading the user's keys and buckets."""

SERVICE_SCOPES = ["list:users", "read:users", "list:groups", "read:groups"]
"""All that the storage service's own token may do at the hub."""

LONGEST_TOKEN_S = 30 * 24 * 3600
"""Longest life of a token that a user makes: arbitrary, a month; whoever may not sign in any more keeps none."""

_LOADED_ROLES: dict[str, list[str]] = {"server": SERVER_SCOPES, "user": ["self", *SERVER_SCOPES[2:]]}
_SECRET_BYTES = 32


def configure(c: Any, environ: Mapping[str, str] = os.environ) -> None:
    """Configure a hub; call it after the spawner class is set, and set what differs afterwards.

    With `sign_in.method: local` the caller sets the authenticator class itself, which only one machine has.

    Args:
        c: The configuration object of a `jupyterhub_config.py`.
        environ: The variables above.

    Raises:
        ConfigError: If a variable or secret is missing, or habari.yaml is wrong.
    """
    tenant = read_tenant(environ)
    secrets = Path(_needed(environ, "HABARI_SECRETS"))
    storage_url = read_storage_url(environ)
    _set_secrets(c, secrets)
    _set_addresses(c, environ.get("HABARI_PUBLIC_URL") or tenant.listen.url, subdomains=tenant.listen.subdomains)
    _set_service(c, storage_url, read_secret(secrets, "service_token"))
    _set_spawner(c, tenant, storage_url, secrets / "launch_token")
    _set_sign_in(c, tenant, read_check(environ))
    c.JupyterHub.template_paths = [*_listed(c.JupyterHub, "template_paths"), str(Path(__file__).parent / "templates")]
    c.JupyterHub.template_vars = {**_mapped(c.JupyterHub, "template_vars"), "habari_title": tenant.title}


def read_tenant(environ: Mapping[str, str] = os.environ) -> config.Tenant:
    """Return the declaration that HABARI_CONFIG names.

    Raises:
        ConfigError: If it cannot be read or is wrong.
    """
    name = environ.get("HABARI_CONFIG")
    if not name:
        return config.Tenant()
    try:
        text = Path(name).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        msg = f"The declaration {name} cannot be read: {reason}. Mend HABARI_CONFIG or the file."
        raise errors.ConfigError(msg) from error
    return config.parse(text, source=name)


def read_secret(folder: Path, name: str) -> str:
    """Return a secret.

    Raises:
        ConfigError: If its file is missing or empty.
    """
    try:
        secret = (folder / name).read_text("utf-8").strip()
    except OSError as error:
        msg = f"The secret {name!r} cannot be read from {folder}: {error.strerror}. Expected a file of that name."
        raise errors.ConfigError(msg) from error
    if not secret:
        msg = f"The secret {name!r} in {folder} is empty; expected one line."
        raise errors.ConfigError(msg)
    return secret


def read_storage_url(environ: Mapping[str, str]) -> str:
    """Return where the storage service is, ending in a slash.

    Raises:
        ConfigError: If HABARI_STORAGE_URL is not set.
    """
    return _needed(environ, "HABARI_STORAGE_URL").rstrip("/") + "/"


def read_check(environ: Mapping[str, str]) -> identity.Check:
    """Return what asks the storage service whose a name is, for `habari.hub.identity.make_hook`.

    Raises:
        ConfigError: If HABARI_STORAGE_URL or HABARI_SECRETS is not set.
    """
    token_file = Path(_needed(environ, "HABARI_SECRETS")) / "launch_token"
    return functools.partial(client.check, read_storage_url(environ), token_file=token_file)


def read_retire(environ: Mapping[str, str]) -> identity.Check:
    """Return what tells the storage service that a person's access has ended; raises as `read_check` does."""
    token_file = Path(_needed(environ, "HABARI_SECRETS")) / "launch_token"
    return functools.partial(client.retire, read_storage_url(environ), token_file=token_file)


def _needed(environ: Mapping[str, str], name: str) -> str:
    if not (value := environ.get(name)):
        msg = f"The variable {name} is not set; the hub needs it, see the documentation of habari.hub.settings."
        raise errors.ConfigError(msg)
    return value


def _set_secrets(c: Any, folder: Path) -> None:
    c.JupyterHub.cookie_secret = _key_bytes(folder, "cookie_secret", read_secret(folder, "cookie_secret"))
    # Several lines: the first encrypts, all decrypt, so that the key can be changed.
    lines = read_secret(folder, "crypt_key").split()
    c.CryptKeeper.keys = [_key_bytes(folder, "crypt_key", line) for line in lines]
    c.Authenticator.enable_auth_state = True


def _key_bytes(folder: Path, name: str, text: str) -> bytes:
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != _SECRET_BYTES:
        msg = f"The secret {name!r} in {folder} is not a key: expected {_SECRET_BYTES} bytes in hexadecimal."
        raise errors.ConfigError(msg)
    return key


def _set_addresses(c: Any, url: str, *, subdomains: bool) -> None:
    if subdomains:
        c.JupyterHub.subdomain_host = url
    else:
        c.JupyterHub.public_url = f"{url}/"
    # A page on a user's subdomain may set cookies for the parent domain, but none with this prefix. Browsers
    # take the prefix over HTTPS only.
    c.JupyterHub.cookie_host_prefix_enabled = url.startswith("https://")
    settings = _mapped(c.JupyterHub, "tornado_settings")
    cookies = {"samesite": "Lax", **settings.get("cookie_options", {})}
    c.JupyterHub.tornado_settings = {**settings, "cookie_options": cookies}
    c.JupyterHub.authenticate_prometheus = True
    c.JupyterHub.token_expires_in_max_seconds = LONGEST_TOKEN_S
    c.JupyterHub.allow_named_servers = False


def _set_service(c: Any, storage_url: str, token: str) -> None:
    parts = urlsplit(storage_url)
    services = [service for service in _listed(c.JupyterHub, "services") if service["name"] != "storage"]
    service = {
        "name": "storage",
        "url": f"{parts.scheme}://{parts.netloc}",
        "api_token": token,
        "oauth_no_confirm": True,  # the platform's own page: asking a person to trust it would teach to click away
        "display": False,
    }
    c.JupyterHub.services = [*services, service]
    c.JupyterHub.custom_scopes = {**_mapped(c.JupyterHub, "custom_scopes"), **SCOPES}
    roles = _listed(c.JupyterHub, "load_roles")
    for name, scopes in _LOADED_ROLES.items():
        declared = next((role for role in roles if role["name"] == name), {"name": name, "scopes": []})
        roles = [role for role in roles if role["name"] != name]
        # A server's token gets what the user holds of the server role: both roles must name the same.
        wanted = scopes if name == "server" else [*declared.get("scopes", []), *scopes]
        roles.append({**declared, "scopes": list(dict.fromkeys(wanted))})
    c.JupyterHub.load_roles = [*roles, {"name": "habari-storage", "scopes": SERVICE_SCOPES, "services": ["storage"]}]


def _set_spawner(c: Any, tenant: config.Tenant, storage_url: str, token_file: Path) -> None:
    c.JupyterHub.spawner_class = launch.launching(_spawner_class(c.JupyterHub.get("spawner_class")))
    c.Launch.storage_url = storage_url
    c.Launch.launch_token_file = str(token_file)
    limit = tenant.servers.start_timeout_s
    c.Spawner.start_timeout = limit + int(client.ENSURE_TIMEOUT_S)
    c.Spawner.http_timeout = limit
    # A storage service that is away must not make the hub end itself after some failed launches.
    c.Spawner.consecutive_failure_limit = 0
    # A token that browsers get from a user's server opens that server and nothing else.
    c.Spawner.oauth_client_allowed_scopes = []
    c.Spawner.default_url = c.Spawner.get("default_url") or "/lab"
    c.Spawner.environment = {**_mapped(c.Spawner, "environment"), "HABARI_STORAGE_URL": storage_url}
    earlier = c.Spawner.get("pre_spawn_hook")

    def hook(spawner: Any) -> Any:
        launch.refuse_other_spawners(spawner)
        return earlier(spawner) if earlier else None

    c.Spawner.pre_spawn_hook = hook


def _spawner_class(configured: Any) -> type[Spawner]:
    if configured is None:
        return LocalProcessSpawner  # type: ignore[no-any-return]  # jupyterhub is untyped
    if isinstance(configured, type):
        return configured
    if "." in str(configured):
        return import_item(str(configured))  # type: ignore[no-any-return]  # a class by its dotted name
    msg = (
        f"The spawner class {configured!r} is not one that habari.hub.configure can wrap; "
        "set c.JupyterHub.spawner_class to a class, or to its full name such as 'kubespawner.KubeSpawner'."
    )
    raise errors.ConfigError(msg)


def _set_sign_in(c: Any, tenant: config.Tenant, check: identity.Check) -> None:
    c.Authenticator.allow_all = False
    c.Authenticator.any_allow_config = True
    c.Authenticator.admin_users = set(tenant.sign_in.admin_users)
    # The launch checks who signed in itself. A refresh for another user than the one who asks, as when an
    # administrator starts a server, ends in an AttributeError in JupyterHub 6.1.
    c.Authenticator.refresh_pre_spawn = False
    if tenant.sign_in.method == "github":
        from habari.hub import github  # noqa: PLC0415 - its imports take 0.3 s of a start that may not need them

        github.configure(c, tenant.sign_in, check)


def _listed(section: Any, name: str) -> list[Any]:
    value = section.get(name)
    return list(value) if isinstance(value, list | tuple) else []


def _mapped(section: Any, name: str) -> dict[str, Any]:
    value = section.get(name)
    return dict(value) if isinstance(value, dict) else {}
