"""Traefik's static configuration: the entry points; the hub writes the routes to a file that traefik watches.

Traefik runs beside the hub and not under it, so that users stay connected while the hub restarts.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from habari.core import config, errors
from habari.local import folder, secretfiles

ROUTES_FILE = "routes.toml"
"""Name of the file, in the folder `run/proxy`, in which the hub keeps the routes."""

_HTTP = {"aliasHeadersStrategy": "delete"}
"""`X_Forwarded_For` is not let through in place of `X-Forwarded-For`."""


def write_static(data: folder.Folder, listen: config.Listen, *, api_port: int, behind_proxy: bool) -> Path:
    """Write traefik's static configuration and return its path.

    Args:
        data: The data folder.
        listen: Where people connect.
        api_port: Loopback port on which the hub asks traefik for its state.
        behind_proxy: Whether another proxy in front says who the client is.

    Raises:
        ConfigError: If the certificate or its key cannot be read.
    """
    target = data.path / "run" / "proxy"
    target.mkdir(mode=0o700, exist_ok=True)
    entrypoint: dict[str, Any] = {
        "address": f"{f'[{listen.host}]' if ':' in listen.host else listen.host}:{listen.port}",
        # Traefik's default of 60 s ends every upload that takes longer.
        "transport": {"respondingTimeouts": {"readTimeout": "0s"}},
        "http": dict(_HTTP),
    }
    if behind_proxy:
        entrypoint["forwardedHeaders"] = {"insecure": True}
    scheme = "http"
    if listen.tls:
        scheme = "https"
        _check_readable(listen.tls)
        entrypoint["http"]["tls"] = {}
    static = {
        "global": {"checkNewVersion": False, "sendAnonymousUsage": False},
        "log": {"level": "WARN", "noColor": True},
        "api": {},
        "entryPoints": {scheme: entrypoint, "auth_api": {"address": f"127.0.0.1:{api_port}", "http": _HTTP}},
        "providers": {
            "providersThrottleDuration": "0s",
            "file": {"filename": str(target / ROUTES_FILE), "watch": True},
        },
    }
    # The hub adds the routes again when it starts, those of servers that run on included.
    secretfiles.write(target / ROUTES_FILE, b"")
    file = target / "traefik.yaml"
    secretfiles.write(file, json.dumps(static, indent=1).encode())
    return file


def has_routes(data: folder.Folder) -> bool:
    """Tell whether the hub has written any route."""
    return (data.path / "run" / "proxy" / ROUTES_FILE).stat().st_size > 0


def _check_readable(tls: config.Tls) -> None:
    for name in (tls.certificate, tls.key):
        try:
            Path(name).read_bytes()
        except OSError as error:
            msg = f"The file {name} of listen.tls cannot be read: {error.strerror}. Mend its path or its rights."
            raise errors.ConfigError(msg) from error
