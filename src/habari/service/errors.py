"""Turns every error of the REST API into the one JSON body of `habari.core.model.ErrorBody`."""

from __future__ import annotations

import logging
import math
import secrets

import fastapi
from fastapi import exceptions
from starlette.exceptions import HTTPException

from habari.core import errors, model

_LOG = logging.getLogger(__name__)


def install(app: fastapi.FastAPI) -> None:
    """Let the application answer every error in the one shape."""
    for kind in (errors.PublicError, exceptions.RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, _answer)


def incident(error: BaseException, what: str) -> str:
    """Log an error that nobody foresaw, and return the sentence that a user may read about it.

    Args:
        error: What happened; it goes to the log only.
        what: What failed, for example `ensuring the user ada`.
    """
    number = secrets.token_hex(4)
    _LOG.error("Incident %s while %s.", number, what, exc_info=error)
    return f"The storage service failed in a way nobody foresaw; tell your administrator the incident {number}."


def _answer(request: fastapi.Request, error: Exception) -> fastapi.Response:
    path = request.url.path[:200]
    match error:
        case errors.PublicError():
            _LOG.info("%s %s: %d %s", request.method, path, error.status, error)
            return _body(error.status, error.code, str(error), _hints(error))
        case exceptions.RequestValidationError():
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            return _body(422, errors.InvalidInputError.code, f"The request is not valid at {where}: {first['msg']}.")
        case HTTPException():
            code, message = {
                404: ("not_found", f"There is nothing at {path}; the API's document lists what there is."),
                405: (
                    "method_not_allowed",
                    f"The method {request.method} is not allowed at {path}; the API's document lists what there is.",
                ),
            }.get(error.status_code, ("refused", f"The request was refused: {error.detail}."))
            return _body(error.status_code, code, message, dict(error.headers or {}))
        case _:
            return _body(500, errors.PublicError.code, incident(error, f"answering {request.method} {path}"))


def _hints(error: errors.PublicError) -> dict[str, str]:
    if isinstance(error, errors.UnavailableError):
        return {"Retry-After": str(math.ceil(error.delay_s))}
    return {"WWW-Authenticate": "token"} if isinstance(error, errors.NotAuthenticatedError) else {}


def _body(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> fastapi.Response:
    body = model.ErrorBody(error=model.ErrorBody.Detail(code=code, message=message))
    return fastapi.Response(body.model_dump_json(), status, headers, "application/json")
