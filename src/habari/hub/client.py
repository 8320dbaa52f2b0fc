"""The storage service as the hub calls it: a name is checked at the sign-in, a user ensured at each launch."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from http import HTTPStatus
from pathlib import Path
from urllib.parse import quote

import aiohttp
import pydantic

from habari.core import errors, model

CHECK_TIMEOUT_S = 10.0
"""Seconds for the check of a name, and for taking keys back: arbitrary, the storage service has little to do."""

ENSURE_TIMEOUT_S = 60.0
"""Seconds for the storage service: arbitrary; a first launch takes below one, and the slowest claim some 30."""

_MAX_LINE_BYTES = 64 * 1024


def read_step(line: bytes) -> model.Step:
    """Return the step that a line of the answer holds.

    Raises:
        UnavailableError: If the line is not a step, or says that the user's storage could not be had.
    """
    try:
        step = model.Step.model_validate_json(line)
    except pydantic.ValidationError as error:
        raise _garbled() from error
    if step.state == "failed":
        raise errors.UnavailableError(step.message or f"The step {step.step!r} of your launch failed. Try again.")
    return step


def read_refusal(status: int, body: bytes) -> errors.PublicError:
    """Return the error that an answer other than 200 stands for."""
    try:
        message = model.ErrorBody.model_validate_json(body).error.message
    except pydantic.ValidationError:
        return _garbled()
    kinds: dict[int, type[errors.PublicError]] = {
        400: errors.InvalidInputError,
        403: errors.NotPermittedError,
        409: errors.ConflictError,
    }
    if status == HTTPStatus.UNAUTHORIZED:
        return errors.UnavailableError(
            "The storage service does not trust this hub: their launch tokens differ. Tell your administrator."
        )
    return kinds.get(status, errors.UnavailableError)(message)


async def check(url: str, *, token_file: Path, name: str, issuer: str, subject: str) -> None:
    """Have the storage service bind a name to a person, or refuse a name that belongs to another.

    Args:
        url: Where the storage service is, ending in a slash.
        token_file: The launch token that it shares with the hub.
        name: The user's name at the hub.
        issuer: The sign-in that vouches for the person.
        subject: The person at that sign-in.

    Raises:
        PublicError: If the name is another person's, or the storage service does not answer; the text is for the user.
    """
    person = model.Person(issuer=issuer, subject=subject)
    try:
        await _tell(_address(url, name, "check"), token_file, person)
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        msg = (
            f"The storage service does not answer, so it cannot be told whose name {name!r} is. "
            "Try to sign in again in a minute; if it lasts, tell your administrator."
        )
        raise errors.UnavailableError(msg) from error


async def retire(url: str, *, token_file: Path, name: str, issuer: str, subject: str) -> None:
    """Have the storage service take a person's keys back; arguments as in `check`.

    Raises:
        PublicError: If that is not done; the same call may succeed later.
    """
    person = model.Person(issuer=issuer, subject=subject)
    try:
        await _tell(_address(url, name, "retire"), token_file, person)
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        msg = f"The storage service does not answer, so the keys of {name!r} are still valid. It is asked again."
        raise errors.UnavailableError(msg) from error


async def ensure(
    url: str, *, token: str, name: str, request: model.EnsureRequest, timeout_s: float = ENSURE_TIMEOUT_S
) -> AsyncIterator[model.Step]:
    """Have the storage service ensure a user, and yield each step as it happens.

    The iterator ends normally only after the step `ready`, which is not yielded.

    Args:
        url: Where the storage service is, ending in a slash.
        token: The launch token that it shares with the hub.
        name: The user's name at the hub.
        request: Who the user is.
        timeout_s: Seconds for the whole of it.

    Raises:
        PublicError: If the user's bucket and keys cannot be had; the text is for the user.
    """
    try:
        async with _post(_address(url, name, "ensure"), token, request, timeout_s=timeout_s) as response:
            async for line in response.content:
                step = read_step(line)
                if (step.step, step.state) == ("ready", "done"):
                    return
                yield step
    except TimeoutError as error:
        msg = (
            f"The storage service did not make your bucket ready within {timeout_s:.0f} seconds, so your server was "
            "not started. Try again in a minute; if it lasts, tell your administrator."
        )
        raise errors.UnavailableError(msg) from error
    except (aiohttp.ClientError, OSError, ValueError) as error:
        msg = (
            "The storage service does not answer, so your bucket and keys cannot be had and your server was not "
            "started. Try again in a minute; if it lasts, tell your administrator."
        )
        raise errors.UnavailableError(msg) from error
    msg = (
        "The storage service broke off before your bucket was ready, so your server was not started. "
        "Try again in a minute; if it lasts, tell your administrator."
    )
    raise errors.UnavailableError(msg)


async def _tell(address: str, token_file: Path, person: model.Person) -> None:
    token = await asyncio.to_thread(token_file.read_text, "utf-8")
    async with _post(address, token.strip(), person, timeout_s=CHECK_TIMEOUT_S):
        return


def _garbled() -> errors.UnavailableError:
    return errors.UnavailableError(
        "The storage service gave an answer that the hub does not understand, so your server was not started. "
        "Tell your administrator: hub and storage service may have different versions."
    )


def _address(url: str, name: str, what: str) -> str:
    return f"{url}api/v1/users/{quote(name, safe='')}/{what}"


@contextlib.asynccontextmanager
async def _post(
    address: str, token: str, request: model.Person, *, timeout_s: float
) -> AsyncIterator[aiohttp.ClientResponse]:
    limits = aiohttp.ClientTimeout(total=timeout_s, sock_connect=min(10.0, timeout_s))
    async with (
        aiohttp.ClientSession(timeout=limits, read_bufsize=_MAX_LINE_BYTES) as session,
        session.post(
            address,
            data=request.model_dump_json(),
            headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
            allow_redirects=False,
        ) as response,
    ):
        if response.status not in (HTTPStatus.OK, HTTPStatus.NO_CONTENT):
            raise read_refusal(response.status, await response.content.read(_MAX_LINE_BYTES))
        yield response
