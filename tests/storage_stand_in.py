"""A stand-in for the storage service: a real HTTP server whose answers a test chooses; it stores nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

from aiohttp import web

SECRET = "made-up-secret-access-key"

GOOD = [
    ("identity", "started"),
    ("identity", "done"),
    ("personal bucket", "started"),
    ("personal bucket", "done"),
    ("grants", "started"),
    ("grants", "done"),
    ("ready", "done"),
]


class StorageStandIn:
    """Answers ensure requests with `lines`, after `gate` is open for each line past `free_lines`."""

    def __init__(self) -> None:
        """Answer at once and well."""
        self.url = ""
        self.lines: list[dict[str, str]] = []
        self.status = 200
        self.body: Any = None
        self.free_lines = 100
        self.gate = asyncio.Event()
        self.requests: list[tuple[str, str, dict[str, Any]]] = []
        self.tokens: list[str] = []
        self.refusal = ""
        self.people: dict[str, tuple[str, str]] = {}
        self.retired: list[tuple[str, str]] = []
        self.refuse_to_retire = False
        self.well()

    def well(self) -> None:
        """Answer with success."""
        self.status, self.body, self.free_lines = 200, None, 100
        self.lines = [{"step": step, "state": state, "message": ""} for step, state in GOOD]
        self.gate.set()

    def fail(self, message: str) -> None:
        """Fail at the personal bucket."""
        self.well()
        self.lines = [*self.lines[:3], {"step": "personal bucket", "state": "failed", "message": message}]

    async def ensure(self, request: web.Request) -> web.StreamResponse:
        """Answer as told."""
        self.requests.append(
            (request.match_info["name"], request.headers.get("Authorization", ""), await request.json())
        )
        if self.status != 200:
            return web.json_response(self.body, status=self.status)
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        for number, line in enumerate(self.lines):
            if number >= self.free_lines:
                await self.gate.wait()
            await response.write(json.dumps(line).encode() + b"\n")
        return response

    async def check(self, request: web.Request) -> web.Response:
        """Remember who first came under a name, and refuse it to everybody else."""
        body = await request.json()
        person = (body["issuer"], body["subject"])
        if self.people.setdefault(request.match_info["name"], person) != person:
            message = f"The name {request.match_info['name']!r} is 100% another person's."
            return web.json_response({"error": {"code": "conflict", "message": message}}, status=409)
        return web.Response(status=204)

    async def retire(self, request: web.Request) -> web.Response:
        """Remember who was retired, unless told to refuse."""
        if self.refuse_to_retire:
            message = "The object store does not answer."
            return web.json_response({"error": {"code": "unavailable", "message": message}}, status=503)
        self.retired.append((request.match_info["name"], (await request.json())["subject"]))
        return web.Response(status=204)

    async def me(self, request: web.Request) -> web.Response:
        """Answer a server with keys that open nothing."""
        self.tokens.append(request.headers.get("Authorization", ""))
        if self.refusal:
            return web.json_response({"error": {"code": "not_permitted", "message": self.refusal}}, status=403)
        return web.json_response(
            {
                "user": "ada",
                "bucket": "user-ada",
                "endpoint_url": "http://127.0.0.1:9",
                "region": "us-east-1",
                "keys": {"access_key_id": "AKIATEST", "secret_access_key": SECRET},
                "buckets": [],
            }
        )

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[StorageStandIn]:
        """Serve on a free port."""
        app = web.Application()
        app.router.add_get("/services/storage/api/v1/me", self.me)
        app.router.add_post("/services/storage/api/v1/users/{name}/check", self.check)
        app.router.add_post("/services/storage/api/v1/users/{name}/ensure", self.ensure)
        app.router.add_post("/services/storage/api/v1/users/{name}/retire", self.retire)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{port}/services/storage/"
        try:
            yield self
        finally:
            self.gate.set()
            await runner.cleanup()
