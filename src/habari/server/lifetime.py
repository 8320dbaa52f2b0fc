"""Start and end of a server: what it or one before it did not finish writing is removed.

Jupyter Server tells contents managers nothing of its end, so `follow` takes part in its cleaning up.
"""

# mypy: allow-untyped-calls
# Jupyter's managers and nbformat have no types.

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import pathlib
import re
import stat
from typing import TYPE_CHECKING

from habari.core import errors
from habari.server import disk, s3, s3_multipart, unfinished

if TYPE_CHECKING:
    from jupyter_server import serverapp

    from habari.server import tree

CLOSE_S = 4.0
"""Seconds that unfinished uploads may hold up a server's end; what is left is removed at the next start."""

_DISCONNECT_S = 1.0


def follow(app: serverapp.ServerApp, owner: tree.Tree) -> None:
    """Remove what earlier servers left behind, in the background, and at the end what this one has begun."""
    unfinished.notes.keep_in(unfinished.default_dir())

    async def started() -> None:
        await remove(owner, await asyncio.to_thread(unfinished.notes.take_over))

    app.io_loop.add_callback(started)
    extensions = app.cleanup_extensions

    async def ended() -> None:
        await asyncio.gather(end(owner), extensions())

    app.cleanup_extensions = ended  # type: ignore[method-assign] # the first that Jupyter Server awaits
    atexit.register(unfinished.notes.close)  # not in `end`: a copy goes on until the event loop stops


async def end(owner: tree.Tree) -> None:
    """Give up what is under way, within `CLOSE_S`; whatever fails, the server ends."""
    try:
        async with asyncio.timeout(CLOSE_S):
            await owner.uploads.close()
            await remove(owner, unfinished.notes.open())
    except TimeoutError:
        owner.log.warning("%d unfinished uploads are left for the next start", len(unfinished.notes.open()))
    except Exception:
        owner.log.exception("Unfinished uploads were not removed; the next start tries again")
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_DISCONNECT_S):
            await owner.close()


async def remove(owner: tree.Tree, items: list[unfinished.Item]) -> None:
    """Remove unfinished files and uploads; of what cannot be reached now, the note stays."""
    if not items:
        return
    await asyncio.gather(*(_remove(owner, item) for item in items))
    left = len(set(items) & set(unfinished.notes.open()))
    owner.log.info("Habari: %d unfinished uploads were removed, %d are left", len(items) - left, left)


async def _remove(owner: tree.Tree, item: unfinished.Item) -> None:
    try:
        if isinstance(item, unfinished.HiddenFile):
            await asyncio.to_thread(_unlink, item.path)
        elif (client := await _client(owner, item)) is not None:
            await s3_multipart.abort(client, item.bucket, item.key, item.upload_id)
        else:
            return
    except (OSError, errors.UnavailableError) as error:
        owner.log.warning("An unfinished upload was not removed: %s", error)
    except errors.PublicError as error:
        owner.log.warning("An unfinished upload cannot be removed: %s", error)
        unfinished.notes.end(item)
    else:
        unfinished.notes.end(item)


async def _client(owner: tree.Tree, item: unfinished.Parts) -> s3.Client | None:
    """Return the client that reaches an upload; None if the user has that bucket no more, or not in this server."""
    try:
        files = await owner.bucket_files(item.bucket)
    except errors.NotFoundError:
        return None
    return files.client if files.client.store.endpoint_url == item.endpoint_url else None


def _unlink(path: str) -> None:
    """Remove a hidden file where it was made: no link is followed, and no other file is touched."""
    folder, name = os.path.split(path)
    if not re.fullmatch(disk.SPOOL_NAME, name) or os.path.realpath(folder) != folder:
        return
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        if stat.S_ISREG(os.lstat(path).st_mode):
            pathlib.Path(path).unlink()
