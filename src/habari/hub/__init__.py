"""What runs inside the JupyterHub process: `configure(c)` is all that a `jupyterhub_config.py` needs, on any target."""

from habari.hub.launch import Launch, launching
from habari.hub.settings import configure

__all__ = ["Launch", "configure", "launching"]
