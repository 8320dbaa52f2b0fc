"""Who a request comes from: the proxy marks what it forwards to the hub, and only then its word counts.

Every user's code reaches the hub's own port on loopback, past the proxy, and may write any header there.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import Any

from jupyterhub_traefik_proxy.fileprovider import TraefikFileProviderProxy
from traitlets import Unicode

HEADER = "X-Habari-Forwarded"
"""The header with the mark, which the hub makes anew at each start and tells its proxy alone."""

UNKNOWN = "local"
"""The address of whatever did not come through the proxy."""

_MIDDLEWARE = "to-hub"


def client(headers: Mapping[str, str], mark: str, *, behind_proxy: bool) -> str:
    """Return the address of the client.

    Args:
        headers: The request's.
        mark: What the proxy's header must hold.
        behind_proxy: Another proxy in front of ours tells who the client is; ours adds that proxy's own address.
    """
    if not mark or not hmac.compare_digest(headers.get(HEADER, "").encode(), mark.encode()):
        return UNKNOWN
    chain = [each.strip() for each in headers.get("X-Forwarded-For", "").split(",")]
    place = 2 if behind_proxy and len(chain) > 1 else 1
    return chain[-place] or UNKNOWN


class MarkingProxy(TraefikFileProviderProxy):  # type: ignore[misc]  # it is untyped
    """Traefik, marking what it forwards to the hub, and nothing else: users' servers do not see the mark."""

    mark = Unicode(config=True, help="The mark; no default.")

    async def _setup_traefik_dynamic_config(self) -> None:
        # An empty value removes a header; the client's own word for its address is one that tornado would take.
        told = {HEADER: self.mark, "X-Real-Ip": ""}
        middlewares = {_MIDDLEWARE: {"headers": {"customRequestHeaders": told}}}
        self.extra_dynamic_config = {"http": {"middlewares": middlewares}}
        await super()._setup_traefik_dynamic_config()

    def _dynamic_config_for_route(
        self, routespec: str, target: str, data: Mapping[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        traefik, kept = super()._dynamic_config_for_route(routespec, target, data)
        if data.get("hub"):
            for router in traefik["http"]["routers"].values():
                router["middlewares"] = [_MIDDLEWARE]
        result: tuple[dict[str, Any], dict[str, Any]] = (traefik, kept)
        return result
