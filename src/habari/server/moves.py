"""A copy of a file or folder from one place of the tree to another, its verification, and the end of its source.

Made by `transfers`. The sides are a bucket or the home; objects are copied by the store where both sides
are of one store, else streamed.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from habari.core import errors
from habari.server import bucket, disk, folders, paths, s3_multipart, s3_xml

if TYPE_CHECKING:
    from habari.server import tree

_COPIES_AT_ONCE = 32
_STREAMS_AT_ONCE = 4
"""Objects streamed at the same time; each holds up to two parts in memory."""


@dataclasses.dataclass
class BucketSide:
    """Objects of a bucket: one, or all below a prefix. `base` is its key, or the prefix with its slash."""

    files: bucket.BucketFiles
    base: str
    is_folder: bool
    entries: list[s3_xml.Entry] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Move:
    """One copy or move.

    Attributes:
        source: Where it is.
        target: Where it goes; nothing is there yet.
        source_path: The source's path, for messages.
        target_path: The target's path, for messages.
    """

    source: BucketSide | disk.DiskSide
    target: BucketSide | disk.DiskSide
    source_path: str
    target_path: str
    _etags: dict[str, str] = dataclasses.field(default_factory=dict)
    _done: int = 0

    async def check_source_writable(self) -> None:
        """Refuse to move what may not be deleted.

        Raises:
            NotPermittedError: If the source's bucket may only be read.
        """
        if isinstance(self.source, BucketSide):
            self.source.files.check_writable(self.source.base, self.source_path)

    async def copy(self) -> None:
        """Copy everything; on failure the source is whole and the message says how far it got."""
        if isinstance(self.target, BucketSide):
            self.target.files.check_writable(self.target.base, self.target_path)
        one = self._carrier()
        items = self.source.entries
        if isinstance(self.target, disk.DiskSide):
            if full := next((entry.key for entry in items if entry.size and entry.key.endswith("/")), None):
                msg = f"{self.source_path!r} cannot go to the home: {full!r} cannot be a file there. Rename it first."
                raise errors.InvalidInputError(msg)
            await asyncio.to_thread(self.target.prepare, [entry.key[len(self.source.base) :] for entry in items])
        streamed = not self._is_server_side()
        gate = asyncio.Semaphore(_STREAMS_AT_ONCE if streamed else _COPIES_AT_ONCE)

        async def carry(entry: s3_xml.Entry) -> None:
            async with gate:
                relative = entry.key[len(self.source.base) :]
                if isinstance(self.target, BucketSide) and self._is_marker(entry):
                    await self.target.files.make_marker(self.target.base + relative)
                else:
                    self._etags[relative] = await one(entry, relative)
                self._done += 1

        try:
            async with asyncio.TaskGroup() as group:
                for entry in items:
                    group.create_task(carry(entry), name=f"copy {entry.key}")
        except BaseExceptionGroup as group_error:
            error = s3_multipart.first_error(group_error)
            if not isinstance(error, errors.PublicError):
                raise error from group_error
            raise self._stopped(error) from error

    async def verify(self) -> None:
        """Find every copy at its place, whole.

        Raises:
            UnavailableError: If one is missing or differs; the source stays.
        """
        wanted = {
            entry.key[len(self.source.base) :]: entry for entry in self.source.entries if not self._is_marker(entry)
        }
        if isinstance(self.target, disk.DiskSide):
            sizes = await asyncio.to_thread(self.target.sizes, list(wanted))
            wrong = [name for name, entry in wanted.items() if sizes.get(name) != entry.size]
        else:
            found = await self._found(self.target)
            wrong = [name for name, entry in wanted.items() if found.get(name) != (entry.size, self._etags[name])]
        if wrong:
            msg = (
                f"{self.target_path!r} was found incomplete: {len(wrong):,} of {len(wanted):,} copies are missing or "
                f"differ, first {wrong[0]!r}. {self.source_path!r} was left as it is; delete the copy and try again."
            )
            raise errors.UnavailableError(msg)

    async def delete_source(self) -> None:
        """Delete what was copied, and only that: what was changed or added meanwhile stays.

        Raises:
            ConflictError: If something stays.
        """
        if isinstance(self.source, disk.DiskSide):
            left = await asyncio.to_thread(self.source.delete_unchanged)
        else:
            left = await self._delete_unchanged(self.source)
        if left:
            msg = (
                f"{self.source_path!r} was copied to {self.target_path!r}, but {len(left):,} of its files changed "
                f"meanwhile, first {left[0]!r}; these stay where they were. Compare the two before deleting one."
            )
            raise errors.ConflictError(msg)

    @staticmethod
    def _is_marker(entry: s3_xml.Entry) -> bool:
        return entry.size == 0 and entry.key.endswith("/")

    def _is_server_side(self) -> bool:
        both = (self.source, self.target)
        return all(isinstance(side, BucketSide) for side in both) and (
            self.source.files.client.store == self.target.files.client.store  # type: ignore[union-attr] # checked above
        )

    def _carrier(self) -> Callable[[s3_xml.Entry, str], Awaitable[str]]:
        source, target = self.source, self.target
        if isinstance(source, BucketSide) and isinstance(target, BucketSide):
            return self._copy_inside(source, target) if self._is_server_side() else self._copy_between(source, target)
        if isinstance(source, disk.DiskSide) and isinstance(target, BucketSide):
            return self._upload(source, target)
        if isinstance(source, BucketSide) and isinstance(target, disk.DiskSide):
            return self._download(source, target)
        raise TypeError  # home to home never comes here

    @staticmethod
    def _copy_inside(source: BucketSide, target: BucketSide) -> Callable[[s3_xml.Entry, str], Awaitable[str]]:
        async def one(entry: s3_xml.Entry, relative: str) -> str:
            to = (target.files.name, target.base + relative)
            return await s3_multipart.copy(
                source.files.client, (source.files.name, entry.key), to, size=entry.size, etag=entry.etag
            )

        return one

    @staticmethod
    def _copy_between(source: BucketSide, target: BucketSide) -> Callable[[s3_xml.Entry, str], Awaitable[str]]:
        async def one(entry: s3_xml.Entry, relative: str) -> str:
            client = source.files.client
            async with client.open(source.files.name, entry.key, {"If-Match": f'"{entry.etag}"'}) as response:
                kind = response.headers.get("Content-Type", "")
                writer = s3_multipart.Writer(
                    target.files.client, target.files.name, target.base + relative, content_type=kind, if_absent=True
                )
                return await disk.pour(client.chunks(response), writer, expected=entry.size)

        return one

    @staticmethod
    def _upload(source: disk.DiskSide, target: BucketSide) -> Callable[[s3_xml.Entry, str], Awaitable[str]]:
        async def one(entry: s3_xml.Entry, relative: str) -> str:
            writer = s3_multipart.Writer(
                target.files.client,
                target.files.name,
                target.base + relative,
                content_type=disk.content_type(entry.key),
                if_absent=True,
            )
            return await disk.pour(source.chunks(entry), writer, expected=entry.size)

        return one

    @staticmethod
    def _download(source: BucketSide, target: disk.DiskSide) -> Callable[[s3_xml.Entry, str], Awaitable[str]]:
        async def one(entry: s3_xml.Entry, relative: str) -> str:
            client = source.files.client
            if entry.key.endswith("/"):
                return ""  # a folder's marker: `prepare` made the folder
            async with client.open(source.files.name, entry.key, {"If-Match": f'"{entry.etag}"'}) as response:
                await target.write(relative, client.chunks(response), expected=entry.size)
            return entry.etag

        return one

    async def _found(self, side: BucketSide) -> dict[str, tuple[int, str]]:
        if not side.is_folder:
            meta = await side.files.client.head(side.files.name, side.base)
            return {"": (meta.size, meta.etag)}
        entries = await folders.entries_below(side.files, side.base)
        return {entry.key[len(side.base) :]: (entry.size, entry.etag) for entry in entries}

    async def _delete_unchanged(self, side: BucketSide) -> list[str]:
        files = side.files
        if not side.is_folder:
            try:
                await files.client.delete(files.name, side.base, if_match=side.entries[0].etag)
            except errors.ConflictError:
                return [side.base]
            return []
        copied = {entry.key: entry.etag for entry in side.entries}
        now = await folders.entries_below(files, side.base)
        same = [entry.key for entry in now if copied.get(entry.key) == entry.etag]
        left = [entry.key for entry in now if copied.get(entry.key) != entry.etag]
        for start in range(0, len(same), 1000):
            left += [key for key, _ in await files.client.delete_many(files.name, same[start : start + 1000])]
        if not left:
            await folders.sweep(files, side.base, same)
        return left

    def _stopped(self, error: errors.PublicError) -> errors.PublicError:
        msg = (
            f"{self.source_path!r} was not moved or copied to {self.target_path!r}: {error} "
            f"{self._done:,} of {len(self.source.entries):,} files had been copied; the source is whole."
        )
        if self._done:
            msg += " Delete what was copied, then try again."
        stopped = type(error)(msg)
        stopped.code = error.code
        return stopped


async def plan(owner: tree.Tree, source_path: str, target_path: str) -> Move:
    """Look at the source, and say how it gets to the target.

    Raises:
        NotFoundError: If there is no source.
        InvalidInputError: If a folder would get into itself, or something in it cannot go there.
    """
    from_, to = paths.parse(source_path), paths.parse(target_path)
    source: BucketSide | disk.DiskSide
    target: BucketSide | disk.DiskSide
    if isinstance(from_, paths.KeyPlace):
        source = await _bucket_source(owner, from_, source_path)
    elif isinstance(from_, paths.HomePlace):
        source = await asyncio.to_thread(disk.source, owner.home.os_path(from_.path), source_path)
    else:
        msg = f"{source_path!r} holds the buckets and cannot be copied; copy what is in one of them."
        raise errors.InvalidInputError(msg)
    if isinstance(to, paths.KeyPlace):
        files = await owner.bucket_files(to.bucket)
        target = BucketSide(files, to.key + "/" * source.is_folder, source.is_folder)
        inside = isinstance(source, BucketSide) and source.files.name == files.name
        if inside and source.is_folder and target.base.startswith(source.base):
            msg = f"{source_path!r} cannot be moved or copied into itself; choose a folder outside it."
            raise errors.InvalidInputError(msg)
    elif isinstance(to, paths.HomePlace):
        target = disk.DiskSide(owner.home.os_path(to.path), source.is_folder, target_path)
    else:
        msg = f"{target_path!r} holds the buckets; choose a name inside one of them."
        raise errors.InvalidInputError(msg)
    return Move(source, target, source_path, target_path)


async def _bucket_source(owner: tree.Tree, place: paths.KeyPlace, path: str) -> BucketSide:
    files = await owner.bucket_files(place.bucket)
    meta = await files.look(place)
    if meta is not None:
        entry = s3_xml.Entry(place.key, meta.size, meta.etag, "")
        return BucketSide(files, place.key, is_folder=False, entries=[entry])
    entries = await folders.entries_below(files, place.prefix)
    if not entries and await files.is_kept_folder(place.prefix):
        entries = [s3_xml.Entry(place.prefix, 0, "", "")]
    if not entries and not place.is_root:
        msg = f"No such file or folder: {path!r}; look at the folder above it again."
        raise errors.NotFoundError(msg)
    return BucketSide(files, place.prefix, is_folder=True, entries=entries)
