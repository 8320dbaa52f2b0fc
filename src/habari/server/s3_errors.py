"""What an S3 answer other than success means to a user: one table, by the store's code, else by the status.

Codes: https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
"""

from __future__ import annotations

import re
from http import HTTPStatus

from habari.core import errors

_CODE = re.compile(rb"<Code>([A-Za-z0-9.]{1,64})</Code>")

_REFUSED_KEYS = "your keys were refused; stop and start your server to get new ones"

_BY_CODE: dict[str, tuple[type[errors.PublicError], str]] = {
    "NoSuchKey": (errors.NotFoundError, "no such object"),
    "NoSuchBucket": (errors.NotFoundError, "no such bucket"),
    "NoSuchUpload": (errors.NotFoundError, "the upload was aborted; start it again"),
    "AccessDenied": (errors.NotPermittedError, "you have no grant for this; ask the bucket's owner"),
    "AllAccessDisabled": (errors.NotPermittedError, "the store has closed this bucket"),
    "SignatureDoesNotMatch": (errors.NotPermittedError, _REFUSED_KEYS),
    "InvalidAccessKeyId": (errors.NotPermittedError, _REFUSED_KEYS),
    "ExpiredToken": (errors.NotPermittedError, _REFUSED_KEYS),
    "InvalidToken": (errors.NotPermittedError, _REFUSED_KEYS),
    "RequestTimeTooSkewed": (errors.NotPermittedError, "this machine's clock differs too much from the store's"),
    "QuotaExceeded": (errors.NotPermittedError, "the bucket is full; delete something or ask for a larger quota"),
    "PreconditionFailed": (errors.ConflictError, "it was changed by somebody else in the meantime"),
    "ConditionalRequestConflict": (errors.ConflictError, "it was changed by somebody else in the meantime"),
    "OperationAborted": (errors.ConflictError, "another operation on it is under way; try again"),
    "KeyTooLongError": (errors.InvalidInputError, "its name is longer than the store takes"),
    "InvalidObjectName": (errors.InvalidInputError, "the store does not take this name"),
    "EntityTooLarge": (errors.InvalidInputError, "it is larger than the store takes"),
    "InvalidArgument": (errors.InvalidInputError, "the store does not take this request"),
    "InvalidRequest": (errors.InvalidInputError, "the store does not take this request"),
    "InvalidPart": (errors.ConflictError, "a part of the upload was lost; start it again"),
    "InvalidPartOrder": (errors.ConflictError, "a part of the upload was lost; start it again"),
    "SlowDown": (errors.UnavailableError, "the store is busy; try again in a moment"),
    "ServiceUnavailable": (errors.UnavailableError, "the store is busy; try again in a moment"),
    "InternalError": (errors.UnavailableError, "the store failed; try again in a moment"),
}

_BY_STATUS: dict[int, str] = {
    400: "InvalidRequest",
    401: "AccessDenied",
    403: "AccessDenied",
    404: "NoSuchKey",
    409: "OperationAborted",
    412: "PreconditionFailed",
    413: "EntityTooLarge",
    429: "SlowDown",
    503: "SlowDown",
    507: "QuotaExceeded",
}


def code_of(status: int, body: bytes) -> str:
    """Return the store's own code for a failure, or the usual one for the status where the body names none."""
    found = _CODE.search(body)
    return found.group(1).decode("ascii") if found else _BY_STATUS.get(status, "InternalError")


def error(what: str, status: int, body: bytes = b"") -> errors.PublicError:
    """Return the error for an answer of the store.

    Args:
        what: What failed and on which object, for example `Reading 'a' in bucket 'lake'`.
        status: HTTP status.
        body: What the store said: its code is kept, its text is not shown.

    Returns:
        An error whose `code` is the store's.
    """
    code = code_of(status, body)
    known = _BY_CODE.get(code) or _BY_CODE[_BY_STATUS.get(status, "InternalError")]
    kind, meaning = known
    result = kind(f"{what} failed: {meaning} ({code}).")
    result.code = code
    return result


def lost_race(what: str, status: int, body: bytes, if_match: str | None) -> errors.PublicError:
    """Return the error of a conditional write that was refused; a missing object is a conflict too."""
    gone = status == HTTPStatus.NOT_FOUND and code_of(status, body) != "NoSuchBucket"
    if not gone or if_match is None:
        return error(what, status, body)
    result = errors.ConflictError(f"{what} failed: it was deleted by somebody else in the meantime (NoSuchKey).")
    result.code = "NoSuchKey"
    return result


def unreachable(what: str, exc: Exception) -> errors.UnavailableError:
    """Return the error of a request that brought no answer."""
    return errors.UnavailableError(
        f"{what} failed: the object store does not answer ({type(exc).__name__}); try again."
    )
