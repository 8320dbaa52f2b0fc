"""Renames, copies and deletes: server-side inside a store, streamed between home and buckets.

A source is deleted only after every object of it was found, whole, at its new place; on any failure it stays.
"""

# mypy: allow-untyped-calls
# Jupyter's managers and nbformat have no types.

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

from habari.core import errors
from habari.server import bucket, moves, paths, s3_xml

if TYPE_CHECKING:
    from habari.server import tree

_COPY = re.compile(r"-Copy\d*\.")


def no_bucket_here(path: str) -> errors.NotPermittedError:
    """Return the error for changing buckets themselves in the tree."""
    msg = f"{path!r} cannot be changed here: buckets are made, shared and deleted on the storage page, not in the tree."
    return errors.NotPermittedError(msg)


async def delete(files: bucket.BucketFiles, place: paths.KeyPlace, path: str, *, with_contents: bool) -> None:
    """Delete the object of that key; if there is none, the folder with all that is in it.

    Raises:
        NotFoundError: If neither is there.
        NotPermittedError: If the bucket may only be read.
    """
    if await files.look(place) is not None:
        files.check_writable(place.key, path)
        await files.client.delete(files.name, place.key)
        files.seen.forget(place)
        return
    files.check_writable(place.prefix, path)
    entries = await entries_below(files, place.prefix)
    if not entries:
        msg = f"No such file or folder: {path!r}; look at the folder above it again."
        raise errors.NotFoundError(msg)
    if not with_contents and any(entry.key != place.prefix for entry in entries):
        msg = f"The folder {path!r} is not empty; delete what is in it first."
        raise errors.InvalidInputError(msg)
    await delete_entries(files, entries, path)
    files.seen.forget_below(files.name, place.prefix)


async def entries_below(files: bucket.BucketFiles, prefix: str) -> list[s3_xml.Entry]:
    """Return every object whose key starts with a prefix, the folder's marker included."""
    return [entry async for page in files.client.list(files.name, prefix, delimiter="") for entry in page.objects]


async def delete_entries(files: bucket.BucketFiles, entries: list[s3_xml.Entry], path: str) -> None:
    """Delete objects, a thousand a request.

    Raises:
        UnavailableError: If some stay; the message says how many.
    """
    batches = [[entry.key for entry in entries[start : start + 1000]] for start in range(0, len(entries), 1000)]
    gate = asyncio.Semaphore(4)

    async def one(keys: list[str]) -> list[tuple[str, str]]:
        async with gate:
            return await files.client.delete_many(files.name, keys)

    results = await asyncio.gather(*(one(keys) for keys in batches), return_exceptions=True)
    left = [each for result in results if isinstance(result, list) for each in result]
    broken = [result for result in results if isinstance(result, BaseException)]
    if not left and not broken:
        return
    if broken and len(broken) == len(batches):
        raise broken[0]
    why = f"{left[0][0]!r}: {left[0][1]}" if left else str(broken[0])
    msg = (
        f"{path!r} was deleted in part only: {len(left) + 1000 * len(broken):,} or fewer of {len(entries):,} objects "
        f"are still there ({why}). Delete it again."
    )
    raise errors.UnavailableError(msg)


async def rename(owner: tree.Tree, old_path: str, new_path: str) -> None:
    """Move a file or folder anywhere in the tree.

    Raises:
        ConflictError: If something has the new name, or the source changed meanwhile; the source stays.
        InvalidInputError: If a folder would be moved into itself.
    """
    if old_path == new_path:
        return
    old, new = paths.parse(old_path), paths.parse(new_path)
    if isinstance(old, paths.HomePlace) and isinstance(new, paths.HomePlace):
        await owner.home.rename_file(old.path, new.path)
        return
    for place, path in ((old, old_path), (new, new_path)):
        if isinstance(place, paths.BucketsPlace) or (isinstance(place, paths.KeyPlace) and place.is_root):
            raise no_bucket_here(path)
    move = await moves.plan(owner, old_path, new_path)
    if await owner.exists(new_path):
        msg = f"{old_path!r} was not moved: {new_path!r} exists already; choose another name or delete it first."
        raise errors.ConflictError(msg)
    await move.check_source_writable()
    await move.copy()
    await move.verify()
    await move.delete_source()


async def copy(owner: tree.Tree, from_path: str, to_path: str | None) -> str:
    """Copy a file or folder and return the copy's path.

    Args:
        owner: The tree.
        from_path: What to copy.
        to_path: The folder to copy into, or the copy's own path; None for the folder of the source.
    """
    target = paths.parent(from_path) if to_path is None else to_path
    if await owner.dir_exists(target):
        if isinstance(paths.parse(target), paths.BucketsPlace):
            raise no_bucket_here(paths.BUCKETS)
        name = paths.encode(_COPY.sub(".", _own_name(from_path)))
        target = f"{target}/{await owner.increment_filename(name, target, insert='-Copy')}".strip("/")
    elif not await owner.dir_exists(paths.parent(target)):
        msg = f"{from_path!r} was not copied: there is no folder {paths.parent(target)!r}."
        raise errors.NotFoundError(msg)
    elif await owner.exists(target):
        msg = f"{from_path!r} was not copied: {target!r} exists already; choose another name."
        raise errors.ConflictError(msg)
    move = await moves.plan(owner, from_path, target)
    await move.copy()
    await move.verify()
    return target


def _own_name(path: str) -> str:
    place = paths.parse(path)
    if isinstance(place, paths.KeyPlace):
        return place.bucket if place.is_root else place.name
    return paths.name(place.path if isinstance(place, paths.HomePlace) else path)
