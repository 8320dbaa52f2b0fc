"""The web application: the routes under `/services/storage/`, their errors, limits and headers."""

from __future__ import annotations

import fastapi
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from habari.service import errors, routes, wiring

PREFIX = "/services/storage"

MAX_BODY_BYTES = 1024 * 1024
"""Largest request body, in bytes: arbitrary, room for the 10,000 groups that a user might be in."""

_HEADERS = (
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)


def make_app(parts: wiring.Parts, launch_token: str) -> fastapi.FastAPI:
    """Return the application over the running parts.

    The page that shows the API's document is off, because it would load scripts from elsewhere.
    """
    app = fastapi.FastAPI(
        title="Habari storage service",
        version="1",
        openapi_url=f"{PREFIX}/api/v1/openapi.json",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.include_router(routes.make_router(parts, launch_token), prefix=PREFIX)
    errors.install(app)
    app.add_middleware(_Guard)
    return app


class _Guard:
    """Puts the security headers on every answer, and refuses a body that is too large."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        taken = 0

        async def limited() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > MAX_BODY_BYTES:
                raise fastapi.HTTPException(413, f"it is larger than {MAX_BODY_BYTES:,} bytes")
            return message

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *_HEADERS]
            await send(message)

        await self._app(scope, limited, guarded)
