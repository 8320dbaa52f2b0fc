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
from habari.server import bucket, disk, folders, moves, paths

if TYPE_CHECKING:
    from habari.server import tree

_COPY = re.compile(r"-Copy\d*\.")


def no_bucket_here(path: str) -> errors.NotPermittedError:
    """Return the error for making, renaming or deleting something beside the buckets."""
    msg = f"{path!r} cannot be changed: the folder 'buckets' holds buckets alone. Open one of them, or your home."
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
    await files.client.refuse_folded(files.name, place.prefix, size=0)
    entries = await folders.entries_below(files, place.prefix)
    if not entries and not await files.is_kept_folder(place.prefix):
        msg = f"No such file or folder: {path!r}; look at the folder above it again."
        raise errors.NotFoundError(msg)
    if not with_contents and any(entry.key != place.prefix for entry in entries):
        msg = f"The folder {path!r} is not empty; delete what is in it first."
        raise errors.InvalidInputError(msg)
    await folders.delete_entries(files, entries, path)
    await folders.sweep(files, place.prefix, [entry.key for entry in entries])
    files.seen.forget_below(files.name, place.prefix)


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
    try:
        await move.copy()
        await move.verify()
        await move.delete_source()
    finally:
        _forget(owner, old, new)


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
    from_, to = paths.parse(from_path), paths.parse(target)
    if isinstance(from_, paths.HomePlace) and isinstance(to, paths.HomePlace):
        os_paths = owner.home.os_path(from_.path), owner.home.os_path(to.path)
        await asyncio.to_thread(disk.copy_inside, *os_paths, from_path)
        return target
    move = await moves.plan(owner, from_path, target)
    try:
        await move.copy()
        await move.verify()
    finally:
        _forget(owner, to)
    return target


def _forget(owner: tree.Tree, *places: paths.Place) -> None:
    for place in places:
        if isinstance(place, paths.KeyPlace):
            owner.seen.forget(place)
            owner.seen.forget_below(place.bucket, place.prefix)


def _own_name(path: str) -> str:
    place = paths.parse(path)
    if isinstance(place, paths.KeyPlace):
        return place.bucket if place.is_root else place.name
    return paths.name(place.path if isinstance(place, paths.HomePlace) else path)
