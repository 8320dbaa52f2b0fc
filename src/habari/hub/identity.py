"""Binds a hub user to the person who signed in; the launch passes the pair on to the storage service.

A name can change hands: an account is removed and made anew, a GitHub user renames. So the hub keeps
(issuer, subject) in the user's auth state, and the storage service compares it with what it knew.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any, NotRequired, Protocol, TypedDict

from jupyterhub import orm
from tornado import web

from habari.core import errors

SESSION_S = 12 * 3600
"""Seconds until a sign-in that cannot be checked again must be repeated: arbitrary, a working day."""


TOKEN_STATE = "habari_token_hash"  # noqa: S105 - a name
"""Where a spawner's state keeps the hub's own hash of the server's token."""

_END_TIMEOUT_S = 10.0
"""Seconds that a launch which was cancelled may take to end: arbitrary, a server gets some to stop."""


class Check(Protocol):
    """Tells the storage service of a person under a name; raises `PublicError` if it refuses or does not answer."""

    async def __call__(self, *, name: str, issuer: str, subject: str) -> None:
        """Return if it was done."""


class Binding(TypedDict):
    """The whole auth state that the hub keeps, encrypted: no token of the sign-in service is in it."""

    issuer: str
    subject: str
    signed_in_at: float
    password: NotRequired[str]
    """Local accounts: a digest that changes with the password."""


def make_binding(issuer: str, subject: str) -> Binding:
    """Return the auth state of somebody who has just signed in."""
    return {"issuer": issuer, "subject": subject, "signed_in_at": time.time()}


def read(auth_state: Mapping[str, Any] | None, name: str) -> tuple[str, str]:
    """Return issuer and subject of a user's last sign-in.

    Args:
        auth_state: What the hub kept of it.
        name: The user, for the message.

    Raises:
        NotPermittedError: If the hub does not know who signed in.
    """
    issuer, subject = (auth_state or {}).get("issuer"), (auth_state or {}).get("subject")
    if not issuer or not subject:
        msg = (
            f"The hub does not know who signed in as {name!r}, so it cannot tell whose bucket to open. "
            "Sign out, sign in again, then launch; nobody else can make the first launch for a user."
        )
        raise errors.NotPermittedError(msg)
    return str(issuer), str(subject)


def recent(auth_state: Mapping[str, Any] | None, now: float, longest_s: float = SESSION_S) -> bool:
    """Tell whether a sign-in still counts at `now` (seconds since 1970) although nobody can check it again."""
    return bool(auth_state) and now - float((auth_state or {}).get("signed_in_at", 0)) < longest_s


def changed(known: Mapping[str, Any] | None, signed_in: Mapping[str, Any]) -> bool:
    """Tell whether a known user name is signed in to by another person than the last time."""
    if not known:
        return False
    return any(known.get(field) != signed_in[field] for field in ("issuer", "subject"))


def make_hook(
    find: Callable[[Mapping[str, Any]], Binding], check: Check, admins: frozenset[str] | None = None
) -> Callable[[Any, Any, dict[str, Any]], Awaitable[dict[str, Any]]]:
    """Return a `post_auth_hook` that keeps the binding alone, and lets nobody in under another person's name.

    Who is let in could make a token, and with it read the keys that the storage service keeps under the name: so a
    person whom the hub has not seen under this name is let in only if the storage service knows nobody else by it.

    Args:
        find: Takes the authenticator's result and returns the binding.
        check: Asks the storage service.
        admins: Names of the administrators, where habari.yaml alone decides; whoever leaves the list is one no more.
    """

    async def bind(_authenticator: Any, handler: Any, authentication: dict[str, Any]) -> dict[str, Any]:
        binding = find(authentication)
        user = handler.find_user(authentication["name"])
        known = await user.get_auth_state() if user is not None else None
        if user is not None and changed(known, binding):
            await end_sessions(user, db=handler.db, proxy=handler.proxy, log=handler.log)
        if not known or changed(known, binding):
            try:
                await check(name=authentication["name"], issuer=binding["issuer"], subject=binding["subject"])
            except errors.PublicError as error:
                raise web.HTTPError(error.status, str(error)) from error
        result = {**authentication, "auth_state": binding}
        if admins is not None:
            result["admin"] = authentication["name"] in admins
        return result

    return bind


async def end_sessions(user: Any, *, db: Any, proxy: Any, log: Any) -> None:
    """End the servers, the sessions and the tokens of a user whose name is another person's now, or nobody's.

    Args:
        user: The hub's user.
        db: The hub's database session.
        proxy: The hub's proxy.
        log: The hub's log.
    """
    log.warning("%s is another person's name now, or nobody's: ending its servers, sessions and tokens", user.name)
    end_tokens(user, db=db, keep=frozenset())
    for name in {*user.spawners, *(name for name, each in user.orm_user.orm_spawners.items() if each.server)}:
        await _end_server(user, name, proxy)
    # A launch that was just ending may have made one.
    end_tokens(user, db=db, keep=frozenset())


def end_others(user: Any, *, db: Any) -> None:
    """End all sessions and tokens of a user, but those with which the user's own servers speak to the hub."""
    states = [each.state or {} for each in user.orm_user.orm_spawners.values()]
    own = [orm.APIToken.find(db, spawner.api_token) for spawner in user.spawners.values() if spawner.api_token]
    end_tokens(user, db=db, keep={state.get(TOKEN_STATE) for state in states} | {each.hashed for each in own if each})


def end_tokens(user: Any, *, db: Any, keep: Collection[str | None]) -> None:
    """End the sessions and tokens of a user.

    Args:
        user: The hub's user.
        db: The hub's database session.
        keep: The hashes of the tokens that stay.
    """
    for token in [*user.orm_user.api_tokens]:
        if token.hashed not in keep:
            db.delete(token)
    # A browser might just be about to change one for a token.
    for code in [*user.orm_user.oauth_codes]:
        db.delete(code)
    user.orm_user.cookie_id = orm.new_token()
    db.commit()


async def _end_server(user: Any, name: str, proxy: Any) -> None:
    spawner = user.spawners[name]
    if spawner.pending == "spawn" and spawner.end_launch():
        starting = spawner._spawn_future  # noqa: SLF001 - the hub's other handlers wait for it too
        if starting is not None:
            await asyncio.wait([starting], timeout=_END_TIMEOUT_S)
    if spawner.active and spawner.pending != "stop":
        await proxy.delete_user(user, name)
        await user.stop(name)
