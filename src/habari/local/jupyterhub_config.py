"""JupyterHub's configuration on one machine; the stack starts the hub with it and sets the variables it reads."""

import os
from pathlib import Path

import bcrypt

from habari import hub
from habari.core import config
from habari.local import forwarded, proxy, signin, spawner

c = get_config()  # type: ignore[name-defined]  # noqa: F821 - traitlets gives it to every configuration file

data = Path(os.environ["HABARI_DIR"])
tenant = config.parse(Path(os.environ["HABARI_CONFIG"]).read_text())
secrets = Path(os.environ["HABARI_SECRETS"])

hub.configure(c)
signin.configure(c)
spawner.configure(c)

c.JupyterHub.bind_url = os.environ["HABARI_BIND_URL"]
c.JupyterHub.hub_bind_url = f"http://127.0.0.1:{os.environ['HABARI_HUB_PORT']}"
c.JupyterHub.db_url = f"sqlite:///{data / 'hub' / 'jupyterhub.sqlite'}"
c.JupyterHub.cleanup_proxy = False
c.JupyterHub.services = [
    *c.JupyterHub.services,
    {"name": "idle-culler", "api_token": (secrets / "culler_token").read_text().strip()},
]
c.JupyterHub.load_roles = [
    *c.JupyterHub.load_roles,
    {
        "name": "idle-culler",
        "scopes": ["list:users", "read:users:activity", "read:servers", "delete:servers"],
        "services": ["idle-culler"],
    },
]

c.JupyterHub.proxy_class = forwarded.MarkingProxy
c.MarkingProxy.mark = c.AccountAuthenticator.proxy_mark = os.urandom(16).hex()
if os.environ.get("HABARI_BEHIND_PROXY") == "1":
    c.AccountAuthenticator.behind_proxy = True
    # For the hub's log alone.
    c.JupyterHub.trusted_downstream_ips = ["127.0.0.1", "::1"]
c.TraefikFileProviderProxy.should_start = False
c.TraefikFileProviderProxy.dynamic_config_file = str(data / "run" / "proxy" / proxy.ROUTES_FILE)
c.TraefikFileProviderProxy.traefik_api_url = f"http://127.0.0.1:{os.environ['HABARI_PROXY_API_PORT']}"
c.TraefikFileProviderProxy.traefik_api_username = "hub"
password = (secrets / "proxy_password").read_text().strip()
c.TraefikFileProviderProxy.traefik_api_password = password
# The password is random, so that a cheap hash does; with the default one, each question to traefik takes 0.25 s.
hashed = bcrypt.hashpw(password.encode(), bcrypt.gensalt(rounds=4))
c.TraefikFileProviderProxy.traefik_api_hashed_password = hashed.decode()
if tenant.listen.tls:
    c.JupyterHub.ssl_cert = tenant.listen.tls.certificate
    c.JupyterHub.ssl_key = tenant.listen.tls.key
