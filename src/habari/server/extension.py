"""The hooks through which Jupyter Server takes Habari in.

`_link_jupyter_server_extension` runs before the server's managers and before any kernel. In a hub, known by
`HABARI_STORAGE_URL`, it fetches the user's keys and puts them in the environment, or ends the process: a
server without keys never starts. For `habari lab` it takes what is in the environment. In any other server
it does nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import site
import sys
import tempfile
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import traitlets
from traitlets import config

from habari.core import errors
from habari.server import buckets, clients, environment, source

if TYPE_CHECKING:
    from jupyter_server import serverapp

_MAX_RUNTIME_DIR = 55
"""Longest runtime folder, in bytes, under which a kernel's socket has a legal name: Linux allows 107 bytes, and
Jupyter appends `/kernel-UUID-ipc-N`, 51 bytes with a number of two digits (`unix(7)`)."""


_MESSAGE_TYPES = [
    "comm_close",
    "comm_info_request",
    "comm_msg",
    "comm_open",
    "complete_request",
    "connect_request",
    "create_subshell_request",
    "delete_subshell_request",
    "execute_request",
    "history_request",
    "input_reply",
    "inspect_request",
    "interrupt_request",
    "is_complete_request",
    "kernel_info_request",
    "list_subshell_request",
    "shutdown_request",
    "usage_request",
]
"""All that a browser may send to a kernel but `debug_request`, so that a kernel from an environment of the user's own
opens no debugger's port either: https://jupyter-client.readthedocs.io/en/stable/messaging.html."""

_IN_A_HUB: dict[str, dict[str, Any]] = {
    "KernelManager": {"transport": "ipc"},
    "MappingKernelManager": {"allowed_message_types": _MESSAGE_TYPES},
    # JupyterLab asks hosts on the internet for news and updates, and its environment is not the user's to change.
    "LabApp": {
        "check_for_updates_class": "jupyterlab.NeverCheckForUpdate",
        "extension_manager": "readonly",
        "news_url": None,
    },
}


class Habari(config.Configurable):
    """The settings of a server that runs without a hub; `habari lab` makes them."""

    standalone = traitlets.Bool(
        default_value=False,
        help="Show the buckets of the S3 variables in the environment, without a hub. Default: False.",
    ).tag(config=True)
    buckets = traitlets.List(
        traitlets.Unicode(),
        help="Names of the buckets to show when standalone. Default: those that the object store lists.",
    ).tag(config=True)


def _link_jupyter_server_extension(app: serverapp.ServerApp) -> None:
    """Set the environment and the tree before the server makes its managers.

    Raises:
        SystemExit: With one sentence, if a server of a hub has no keys.
    """
    url = os.environ.get("HABARI_STORAGE_URL")
    try:
        if (alone := Habari(config=app.config)).standalone:
            _link_alone(app, alone)
        elif url:
            _link_to_hub(app, url)
    except errors.HabariError as error:
        msg = f"The server was not started. {error}"
        raise SystemExit(msg) from error
    except Exception as error:  # Jupyter Server logs an extension's errors and starts without it
        app.log.exception("The extension of Habari failed")
        msg = f"The server was not started: its extension failed unexpectedly ({type(error).__name__}); see the log."
        raise SystemExit(msg) from error


def _load_jupyter_server_extension(app: serverapp.ServerApp) -> None:
    """Tell the tree, if there is one, of the server's start and end."""
    if "bucket_source_factory" not in app.config.Tree:
        return
    from habari.server import lifetime, tree  # noqa: PLC0415 - large, and other servers do without

    if isinstance(app.contents_manager, tree.Tree):
        lifetime.follow(app, app.contents_manager)


def _link_to_hub(app: serverapp.ServerApp, url: str) -> None:
    token = os.environ.get("JUPYTERHUB_API_TOKEN")
    if not token:
        msg = "JUPYTERHUB_API_TOKEN is not set, which the hub sets; launch the server from the hub."
        raise errors.ConfigError(msg)
    service = source.StorageService(url, token)
    me = app.io_loop.run_sync(service.me)
    found = environment.from_me(me)
    environment.replace(os.environ, found, bucket=me.bucket)
    os.environ["HABARI_DEBUGGER"] = "off"
    app.update_config(config.Config(_IN_A_HUB))
    _use_tree(app, lambda: source.HubSource(service))
    _make_runtime_dir_private(app)
    _prepare_terminals(app)
    _start_duckdb(app)
    app.log.info("Habari: user %s, object store %s, %d buckets", me.user, found.endpoint_url, len(me.buckets))


def _link_alone(app: serverapp.ServerApp, alone: Habari) -> None:
    store = environment.store(os.environ)
    environment.complete(os.environ, store)
    names = list(alone.buckets)
    _use_tree(app, lambda: source.NamedSource(names) if names else source.ListedSource())
    if not store.endpoint_url.endswith(".amazonaws.com"):  # AWS needs no path-style addresses
        _start_duckdb(app)
    app.log.info("Habari: object store %s, buckets %s", store.endpoint_url, alone.buckets or "as it lists them")


def _use_tree(app: serverapp.ServerApp, factory: Callable[[], buckets.BucketSource]) -> None:
    app.update_config(
        config.Config(
            {
                "ServerApp": {"contents_manager_class": "habari.server.tree.Tree"},
                "Tree": {"bucket_source_factory": factory},
            }
        )
    )


def _start_duckdb(app: serverapp.ServerApp) -> None:
    """Have DuckDB's own configuration written, by another process, while this one goes on starting."""
    if clients.duckdb_is_configured(pathlib.Path.home()):
        return
    program = (sys.executable, "-m", "habari.server.clients")
    try:
        app.io_loop.run_sync(lambda: asyncio.create_subprocess_exec(*program, stdin=asyncio.subprocess.DEVNULL))
    except OSError as error:
        app.log.warning("DuckDB was not configured for S3: %s", error)


def _prepare_terminals(app: serverapp.ServerApp) -> None:
    """Make programs of a terminal (`jupyter execute`, `nbconvert`) start kernels as the server does, and `pip` work.

    By default a terminal runs a login shell, whose profile sets PATH anew: `python` would not be the environment's.

    A folder for packages in the home that is there when Python starts is on its path, so that a kernel imports
    what `%pip install` has just put there.
    """
    paths = [str(pathlib.Path(__file__).with_name("jupyter_config")), os.environ.get("JUPYTER_CONFIG_PATH", "")]
    os.environ["JUPYTER_CONFIG_PATH"] = os.pathsep.join(filter(None, paths))
    if "shell_command" not in app.terminado_settings:
        shell = os.environ.get("SHELL") or "sh"
        app.terminado_settings = {**app.terminado_settings, "shell_command": [shell]}
    if site.ENABLE_USER_SITE:
        with contextlib.suppress(OSError):
            pathlib.Path(site.getusersitepackages()).mkdir(parents=True, exist_ok=True)


def _make_runtime_dir_private(app: serverapp.ServerApp) -> None:
    """Let the sockets of kernels lie in a folder that only this user enters, under a path that sockets can have."""
    folder = pathlib.Path(app.runtime_dir)
    if len(os.fsencode(folder)) > _MAX_RUNTIME_DIR:
        folder = pathlib.Path(tempfile.mkdtemp(prefix="jupyter-"))  # mode 700
        app.runtime_dir = os.environ["JUPYTER_RUNTIME_DIR"] = str(folder)
    folder.chmod(0o700)
