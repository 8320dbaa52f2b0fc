"""`habari lab`: one JupyterLab with the tree, for whoever has S3 variables in the environment; no hub."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence

from habari.server import environment, source


def main(buckets: Sequence[str] = (), arguments: Sequence[str] = ()) -> int:
    """Run JupyterLab until it is stopped.

    Args:
        buckets: Names of the buckets to show; without any, those that the object store lists.
        arguments: More arguments for Jupyter, for example `--no-browser`.

    Returns:
        The exit status.

    Raises:
        ConfigError: If the environment has no keys, or an endpoint that is none; nothing was started.
        PublicError: If no buckets are named and the object store does not list any; nothing was started.
    """
    environment.store(os.environ)
    if not buckets:
        asyncio.run(source.ListedSource().buckets())
    from jupyterlab import labapp  # noqa: PLC0415 - takes half a second
    from traitlets import config  # noqa: PLC0415 - as above

    settings = config.Config({"Habari": {"standalone": True, "buckets": list(buckets)}})
    server = labapp.LabApp.initialize_server(argv=list(arguments), config=settings)
    server.start()
    return 0
