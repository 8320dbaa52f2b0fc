"""A spawner whose server is a small HTTP server in the hub's process that tells its environment to the test."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from aiohttp import web
from jupyterhub.spawner import Spawner


class StandInSpawner(Spawner):
    """Serves 200 everywhere, and writes the server's environment to `server-NAME.json` in the hub's folder."""

    runner: Any = None

    async def start(self) -> str:
        """Serve."""
        file = Path(f"server-{self.user.name}.json")
        await asyncio.to_thread(file.write_text, json.dumps(self.get_env()))
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", self._answer)
        self.runner = web.AppRunner(app)
        await self.runner.setup()
        await web.TCPSite(self.runner, "127.0.0.1", 0).start()
        return f"http://127.0.0.1:{self.runner.addresses[0][1]}"

    async def _answer(self, _: web.Request) -> web.Response:
        return web.json_response({}, headers={"X-JupyterHub-Version": "0"})

    async def progress(self) -> AsyncIterator[dict[str, Any]]:
        """Tell one event of its own."""
        yield {"progress": 50, "message": "the stand-in starts"}

    async def stop(self, now: bool = False) -> None:  # noqa: FBT001, FBT002 - JupyterHub's signature
        """End the server."""
        del now
        if self.runner:
            await self.runner.cleanup()
            self.runner = None

    async def poll(self) -> int | None:
        """Tell whether the server runs."""
        return None if self.runner else 0
