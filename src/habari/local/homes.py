"""Users' homes on one machine, the Unix ids that own them, and the one user of a platform without isolation."""

from __future__ import annotations

import dataclasses
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from habari.core import errors
from habari.local import secretfiles

FIRST_UID = 50_000
"""First id of users' servers where root runs the platform: arbitrary, in Debian's range for such use."""

UID_COUNT = 10_000
"""How many ids there are, one a user: arbitrary, far above what one machine serves."""

_ONLY_USER = "hub/only-user"
_GIVING = threading.Lock()


@dataclasses.dataclass(frozen=True)
class Home:
    """A home.

    Attributes:
        path: The folder.
        uid: Its owner, where root runs the platform in sandboxes; else None.
    """

    path: Path
    uid: int | None


def isolated(environ: Mapping[str, str]) -> bool:
    """Tell whether servers run in sandboxes: HABARI_ISOLATION is not `0`."""
    return environ.get("HABARI_ISOLATION", "1") != "0"


def prepare(data: Path, slug: str, *, sandboxed: bool) -> Home:
    """Return a user's home, made at the first launch; blocking.

    Raises:
        UnavailableError: If it cannot be made.
    """
    root = data / "homes"
    home = root / slug
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not sandboxed or os.geteuid() != 0:
            return Home(home, None)
        # Launches are prepared in threads: two that look at once would find the same id free.
        with _GIVING:
            owner = home.stat().st_uid
            if owner not in range(FIRST_UID, FIRST_UID + UID_COUNT):
                owner = free_uid({each.stat().st_uid for each in root.iterdir()})
                _give(home, owner)
    except OSError as error:
        msg = f"Your home folder cannot be made: {error.strerror}. Tell your administrator: {home}"
        raise errors.UnavailableError(msg) from error
    return Home(home, owner)


def free_uid(taken: set[int]) -> int:
    """Return an id that no home has.

    Raises:
        UnavailableError: If all are taken.
    """
    for uid in range(FIRST_UID, FIRST_UID + UID_COUNT):
        if uid not in taken:
            return uid
    msg = f"All {UID_COUNT:,} ids for users' servers are taken. Tell your administrator to remove homes of the past."
    raise errors.UnavailableError(msg)


def check_only(data: Path, name: str) -> None:
    """Return if this user is the one who may use a platform without isolation; the first to come is.

    Raises:
        NotPermittedError: If it is another.
    """
    file = data / _ONLY_USER
    only = secretfiles.ensure(file, lambda: name)
    if only != name:
        msg = (
            f"This platform runs without isolation, so only {only!r} may use it. "
            "Start it without --no-isolation to let others in."
        )
        raise errors.NotPermittedError(msg)


def admit_one(c: Any, data: Path) -> None:
    """Let one user only sign in: whoever passes the sign-in first."""
    earlier = c.Authenticator.post_auth_hook

    async def admit(authenticator: Any, handler: Any, authentication: dict[str, Any]) -> dict[str, Any]:
        try:
            check_only(data, authentication["name"])
        except errors.NotPermittedError as error:
            raise refusal(error) from error
        result: dict[str, Any] = await earlier(authenticator, handler, authentication)
        return result

    c.Authenticator.post_auth_hook = admit


def refusal(error: errors.PublicError) -> Exception:
    """Return the error as the hub shows it on the sign-in page."""
    from tornado import web  # noqa: PLC0415 - the command line does without

    return web.HTTPError(error.status, str(error))


def _give(home: Path, uid: int) -> None:
    # From the inside out: while the top belongs to nobody's id, a break in between starts over at the next launch.
    for folder, _, files in os.walk(home, topdown=False):
        for name in files:
            os.lchown(Path(folder) / name, uid, uid)
        os.lchown(folder, uid, uid)
