"""Starts the storage service: `python -m habari.service`, with settings from the environment only."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator

import uvicorn

from habari.core import errors
from habari.service import app, database, settings, wiring
from habari.storage import seaweedfs

_STOP_TIMEOUT_S = 10
_LOG = logging.getLogger("habari.service")


def main() -> int:
    """Serve until SIGTERM or SIGINT; return the exit status: 2 if an operator must mend something first."""
    os.umask(0o077)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    try:
        told = settings.read(os.environ)
        db = database.Database(told.database_url)
        try:
            db.migrate()
            with _listen(told.host, told.port) as listening:
                asyncio.run(_serve(told, db, listening))
        finally:
            db.close()
    except errors.ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


async def _serve(told: settings.Settings, db: database.Database, listening: socket.socket) -> None:
    backend = seaweedfs.SeaweedFS(told.store_url, told.secrets.store_key, region=told.tenant.store.region)
    try:
        async with wiring.running(told, db, backend) as parts:
            server = _Server(
                uvicorn.Config(
                    app.make_app(parts, told.secrets.launch_token),
                    lifespan="off",
                    ws="none",
                    access_log=False,
                    log_config=None,
                    server_header=False,
                    timeout_graceful_shutdown=_STOP_TIMEOUT_S,
                )
            )
            _LOG.info("Serving the tenant %s on %s:%d.", told.tenant.name, told.host, listening.getsockname()[1])
            await server.serve([listening])
    finally:
        await backend.close()


@contextlib.contextmanager
def _listen(host: str, port: int) -> Iterator[socket.socket]:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as listening:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            yield listening
    except OSError as error:
        msg = f"The storage service cannot listen on {host}:{port}: {error.strerror}. HABARI_LISTEN names the address."
        raise errors.ConfigError(msg) from error


class _Server(uvicorn.Server):
    """A server that ends quietly on a signal, where uvicorn's own would end by the signal after all is closed."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Let SIGINT and SIGTERM end the serving."""
        for each in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(each, self.handle_exit, each, None)
        yield


if __name__ == "__main__":
    sys.exit(main())
