"""The REST API under `/services/storage/api/v1/`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

import fastapi
from fastapi import responses, security

from habari.core import model
from habari.service import auth, wiring

_REASONS = {
    400: "What was asked cannot be meant",
    401: "No token, or one that nobody vouches for",
    403: "The caller may not do this",
    409: "The state forbids this",
    413: "The request is too large",
    422: "The request is not valid",
    503: "Something needed does not answer now",
}


def _answers(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": model.ErrorBody, "description": _REASONS[status]} for status in statuses}


_LaunchToken = Annotated[
    str | None,
    fastapi.Security(
        security.APIKeyHeader(
            name="Authorization", scheme_name="launchToken", description="`Bearer LAUNCH_TOKEN`", auto_error=False
        )
    ),
]
_HubToken = Annotated[
    str | None,
    fastapi.Security(
        security.APIKeyHeader(
            name="Authorization", scheme_name="hubToken", description="`token JUPYTERHUB_API_TOKEN`", auto_error=False
        )
    ),
]


class Status(model.ApiModel):
    """The service serves."""

    status: str = "ok"


def make_router(parts: wiring.Parts, launch_token: str) -> fastapi.APIRouter:
    """Return the routes over the running parts."""
    router = fastapi.APIRouter(prefix="/api/v1")
    _add_probes(router, parts)
    _add_launch(router, parts, launch_token)
    _add_own(router, parts)
    return router


def _add_probes(router: fastapi.APIRouter, parts: wiring.Parts) -> None:

    @router.get("/health", operation_id="health")
    async def health() -> Status:
        """Answer as soon as the process serves."""
        return Status()

    @router.get("/ready", operation_id="ready", responses=_answers(503))
    async def ready() -> Status:
        """Answer 200 if the object store and the hub do."""
        await parts.backend.check()
        await parts.hub.check()
        return Status()


def _add_launch(router: fastapi.APIRouter, parts: wiring.Parts, launch_token: str) -> None:
    @router.post(
        "/users/{name}/check",
        operation_id="checkUser",
        status_code=204,
        responses=_answers(400, 401, 403, 409, 413, 422, 503),
    )
    async def check(name: str, body: model.Person, request: fastapi.Request, token: _LaunchToken = None) -> None:
        """Bind a name to a person, or refuse a name that belongs to another; for the hub, at each sign-in."""
        auth.check_launch_token(token or "", launch_token)
        await parts.ensurer.check(name, body, origin=_origin(request))

    @router.post(
        "/users/{name}/retire",
        operation_id="retireUser",
        status_code=204,
        responses=_answers(400, 401, 413, 422, 503),
    )
    async def retire(name: str, body: model.Person, request: fastapi.Request, token: _LaunchToken = None) -> None:
        """Delete a person's keys, whose access has ended; for the hub. Their bucket stays, and `ensure` restores."""
        auth.check_launch_token(token or "", launch_token)
        await parts.ensurer.retire(name, body, origin=_origin(request))

    @router.post(
        "/users/{name}/ensure",
        operation_id="ensureUser",
        response_class=responses.StreamingResponse,
        responses={
            200: {
                "description": "One `Step` a line; the last is `ready` and `done`, or has the state `failed`",
                "content": {"application/x-ndjson": {"schema": model.Step.model_json_schema()}},
            },
            **_answers(400, 401, 403, 409, 413, 422, 503),
        },
    )
    async def ensure(
        name: str, body: model.EnsureRequest, request: fastapi.Request, token: _LaunchToken = None
    ) -> responses.StreamingResponse:
        """Give a user their identity, keys, buckets and grants; for the hub, at each launch."""
        auth.check_launch_token(token or "", launch_token)
        steps = await parts.ensurer.begin(name, body, origin=_origin(request))
        return responses.StreamingResponse(_lines(steps), media_type="application/x-ndjson")


def _add_own(router: fastapi.APIRouter, parts: wiring.Parts) -> None:
    @router.get("/me", operation_id="me", responses=_answers(401, 403, 409, 503))
    async def me(token: _HubToken = None) -> model.Me:
        """Return the caller's own keys and buckets; needs `custom:habari:keys:read`."""
        caller = await parts.hub.caller(token or "")
        caller.must_have(auth.KEYS_SCOPE)
        return await parts.views.me(caller.user)

    @router.get("/me/buckets", operation_id="myBuckets", responses=_answers(401, 403, 409, 503))
    async def buckets(token: _HubToken = None) -> list[model.BucketView]:
        """Return the caller's own buckets; needs `custom:habari:buckets:read`."""
        caller = await parts.hub.caller(token or "")
        caller.must_have(auth.BUCKETS_SCOPE)
        return await parts.views.buckets(caller.user)


async def _lines(steps: AsyncIterator[model.Step]) -> AsyncIterator[str]:
    async for step in steps:
        yield step.model_dump_json() + "\n"


def _origin(request: fastapi.Request) -> str:
    return request.client.host if request.client else ""
