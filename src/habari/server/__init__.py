"""What Habari adds to a user's Jupyter server: the tree of home and buckets, and the environment.

Jupyter Server imports this package at every start and every kernel imports `habari.server.kernel`,
so nothing heavy is imported here.
"""

from __future__ import annotations

import importlib
import os


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    """Name the module that holds the hooks of the server extension.

    Raises:
        SystemExit: In a hub, if that module cannot be imported. Jupyter Server would only log it, and
            start without keys.
    """
    module = "habari.server.extension"
    if os.environ.get("HABARI_STORAGE_URL"):
        try:
            importlib.import_module(module)
        except ImportError as error:
            msg = (
                f"The server was not started: its extension {module} cannot be imported ({error}); "
                "mend the notebook environment, then launch again."
            )
            raise SystemExit(msg) from error
    return [{"module": module}]
