"""Who is calling: the hub by its launch token, and holders of the hub's tokens by asking the hub."""

from __future__ import annotations

import dataclasses
import hmac
from http import HTTPStatus

import aiohttp
import pydantic

from habari.core import errors

KEYS_SCOPE = "custom:habari:keys:read"
BUCKETS_SCOPE = "custom:habari:buckets:read"

TIMEOUT_S = 10.0
"""How long the hub may take to vouch for a token, in seconds; arbitrary, because it answers in milliseconds."""


_REFUSED = {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}


@dataclasses.dataclass(frozen=True)
class Caller:
    """A user whose token the hub vouched for, and what that token may do."""

    user: str
    scopes: frozenset[str]

    def must_have(self, scope: str) -> None:
        """Return if the token may do this for its own user.

        Raises:
            NotPermittedError: If it may not; the message names the scope.
        """
        if not self.scopes & {scope, f"{scope}!user={self.user}"}:
            msg = f"This token of the user {self.user!r} lacks the scope {scope!r}; use one that has it."
            raise errors.NotPermittedError(msg)


def check_launch_token(authorization: str, launch_token: str) -> None:
    """Return if the header shows the launch token.

    Raises:
        NotAuthenticatedError: If it does not.
    """
    shown = _credential(authorization, "bearer")
    if not hmac.compare_digest(shown.encode(), launch_token.encode()):
        msg = "Only the hub may do this, and the launch token shown is not the hub's; give both the same one."
        raise errors.NotAuthenticatedError(msg)


class Hub:
    """JupyterHub's REST API, as far as the service asks it; made and closed with an `aiohttp` session.

    Args:
        url: Its address, without a slash at its end.
        token: The service's own token there.
        session: What carries the requests.
    """

    def __init__(self, url: str, token: str, session: aiohttp.ClientSession) -> None:
        """Keep the three."""
        self._url = url
        self._token = token
        self._session = session

    async def check(self) -> None:
        """Return if the hub answers and knows this service.

        Raises:
            UnavailableError: If one of the two fails.
        """
        status, _ = await self._whose(self._token)
        if status in _REFUSED:
            msg = "The hub does not know this service's own token; give both the same secret service_token."
            raise errors.UnavailableError(msg)
        if status != HTTPStatus.OK:
            msg = f"The hub answers with status {status} when asked about a token; is JUPYTERHUB_API_URL right?"
            raise errors.UnavailableError(msg)

    async def caller(self, authorization: str) -> Caller:
        """Return the user whose token the header shows; the hub is asked each time, so a revoked token ends at once.

        Raises:
            NotAuthenticatedError: If there is no token, or the hub does not know it.
            NotPermittedError: If it is not the token of a user.
            UnavailableError: If the hub does not answer.
        """
        token = _credential(authorization, "token") or _credential(authorization, "bearer")
        if not token:
            msg = "No token was shown; send one of JupyterHub's in the header 'Authorization: token TOKEN'."
            raise errors.NotAuthenticatedError(msg)
        status, body = await self._whose(token)
        if status in _REFUSED:
            msg = "The hub does not know this token; it may have expired or been revoked. Restart the server."
            raise errors.NotAuthenticatedError(msg)
        try:
            owner = _Owner.model_validate_json(body)
        except pydantic.ValidationError as error:
            msg = f"The hub answered with status {status} and no user when asked about a token; is it JupyterHub?"
            raise errors.UnavailableError(msg) from error
        if owner.kind != "user":
            msg = f"This token belongs to a {owner.kind} of the hub; expected the token of a user."
            raise errors.NotPermittedError(msg)
        return Caller(owner.name, frozenset(owner.scopes))

    async def _whose(self, token: str) -> tuple[int, bytes]:
        headers = {"Authorization": f"token {token}"}
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        try:
            async with self._session.get(
                f"{self._url}/user", headers=headers, timeout=timeout, allow_redirects=False
            ) as response:
                body = await response.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            msg = f"The hub does not answer ({type(error).__name__}); try again in a moment."
            raise errors.UnavailableError(msg) from error
        if response.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            msg = f"The hub answers with status {response.status}; try again in a moment."
            raise errors.UnavailableError(msg)
        return response.status, body


class _Owner(pydantic.BaseModel):
    """What JupyterHub's `GET /user` says, as far as it is needed."""

    kind: str
    name: str
    scopes: list[str]


def _credential(authorization: str, scheme: str) -> str:
    given, _, credential = authorization.partition(" ")
    return credential.strip() if given.lower() == scheme else ""
