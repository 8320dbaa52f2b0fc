"""JupyterLab's uploads in pieces: nothing is visible before the last one, and what was there stays until then.

JupyterLab sends `chunk` 1, 2, 3 … and -1 for the last, each a PUT with a mebibyte of base64. In a bucket they
become the parts of a multipart upload, sent while the next pieces arrive; in the home a hidden file that
takes its name at the end. A gap or a repeat ends the upload with an error, silence with a time limit.
"""

# mypy: allow-untyped-calls
# Jupyter's managers and nbformat have no types.

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime
import mimetypes
import pathlib
import time
from typing import TYPE_CHECKING, Any, Protocol

from habari.core import errors
from habari.server import disk, models, paths, s3, s3_multipart, transfers

if TYPE_CHECKING:
    from habari.server import tree

LAST = -1


class Sink(Protocol):
    """Where the pieces go."""

    @property
    def size(self) -> int:
        """Bytes taken so far."""

    async def write(self, data: bytes) -> None:
        """Take the next bytes."""

    async def publish(self) -> models.Model:
        """Let the file be seen, and return its model."""

    async def abort(self) -> None:
        """Leave nothing behind."""


@dataclasses.dataclass
class _Session:
    sink: Sink
    expected: int
    touched: float
    lock: asyncio.Lock = dataclasses.field(default_factory=asyncio.Lock)
    watch: asyncio.Task[None] | None = None


class Uploads:
    """The uploads under way, one a path.

    Args:
        owner: The tree into which they go.
    """

    def __init__(self, owner: tree.Tree) -> None:
        """Start with none."""
        self._owner = owner
        self._sessions: dict[str, _Session] = {}
        self._closed = False

    def is_open(self, path: str) -> bool:
        """Return whether an upload to this path is under way."""
        return path.strip("/") in self._sessions

    async def take(self, model: dict[str, Any], place: paths.Place, path: str) -> models.Model:
        """Take one piece.

        Returns:
            The file's model; that of the piece's upload as long as it is not the last.

        Raises:
            InvalidInputError: If the piece does not follow the one before; the upload is given up then.
            ConflictError: If the path is being uploaded already, or the file changed since the upload began.
            UnavailableError: If the server is stopping.
        """
        chunk = model["chunk"]
        if model["type"] != "file" or isinstance(chunk, bool) or not isinstance(chunk, int):
            msg = f"{path!r} was not uploaded: expected the type 'file' and a number as chunk, found {chunk!r}."
            raise errors.InvalidInputError(msg)
        if self._closed:
            msg = f"{path!r} was not uploaded: the server is stopping. Start it and upload the file again."
            raise errors.UnavailableError(msg)
        data = await asyncio.to_thread(models.encode, model["content"], model.get("format"), repr(path))
        if chunk == 1:
            await self._begin(model, place, path)
        session = self._sessions.get(path)
        if session is None:
            msg = f"{path!r} was not uploaded: piece {chunk} came without those before it. Upload the file again."
            raise errors.InvalidInputError(msg)
        async with session.lock:
            return await self._add(session, chunk, data, path)

    async def close(self) -> None:
        """Give up every upload, and take no more."""
        self._closed = True
        await self.give_up_all()

    async def give_up_all(self) -> None:
        """Give up every upload."""
        await asyncio.gather(*(self._give_up(path) for path in self._sessions))

    async def _begin(self, model: dict[str, Any], place: paths.Place, path: str) -> None:
        session = self._sessions.get(path)
        if session is not None:
            msg = (
                f"{path!r} is being uploaded already; wait until that upload ends, or "
                f"{self._owner.upload_timeout_s:g} seconds if it was broken off."
            )
            raise errors.ConflictError(msg)
        self._owner.run_pre_save_hooks(model=model, path=path)
        sink = await self._sink(place, path)
        if path in self._sessions:
            await sink.abort()
            msg = f"{path!r} is being uploaded already; wait until that upload ends."
            raise errors.ConflictError(msg)
        session = _Session(sink, expected=1, touched=time.monotonic())
        self._sessions[path] = session
        session.watch = asyncio.create_task(self._watch(path, session), name=f"time limit of the upload of {path}")

    async def _sink(self, place: paths.Place, path: str) -> Sink:
        if isinstance(place, paths.HomePlace):
            return await HomeSink.open(self._owner, place, path)
        if isinstance(place, paths.BucketsPlace) or place.is_root:
            raise transfers.no_bucket_here(path)
        if place.folder:
            msg = f"{path!r} names a folder; choose another name to upload a file."
            raise errors.InvalidInputError(msg)
        return await BucketSink.open(self._owner, place, path)

    async def _add(self, session: _Session, chunk: int, data: bytes, path: str) -> models.Model:
        if self._sessions.get(path) is not session:
            msg = f"{path!r} was not uploaded: the upload was given up. Upload the file again."
            raise errors.InvalidInputError(msg)
        if chunk not in {session.expected, LAST}:
            await self._give_up(path)
            msg = (
                f"{path!r} was not uploaded: piece {chunk} came where piece {session.expected} was expected. "
                "Upload the file again."
            )
            raise errors.InvalidInputError(msg)
        session.expected += 1
        session.touched = time.monotonic()
        try:
            await session.sink.write(data)
            if chunk != LAST:
                session.touched = time.monotonic()
                return _unfinished(path, session.sink.size)
            found = await session.sink.publish()
        except BaseException:
            await self._give_up(path)
            raise
        self._end(path)
        self._owner.emit({"action": "save", "path": path})
        return found

    async def _watch(self, path: str, session: _Session) -> None:
        limit_s = self._owner.upload_timeout_s
        while session.lock.locked() or session.touched + limit_s > time.monotonic():  # noqa: ASYNC110 - a time limit
            await asyncio.sleep(max(session.touched + limit_s - time.monotonic(), 0.05))
        self._owner.log.warning("The upload of %s was given up: nothing came for %s seconds", path, limit_s)
        session.watch = None
        with contextlib.suppress(errors.PublicError):
            await self._give_up(path)

    def _end(self, path: str) -> _Session | None:
        session = self._sessions.pop(path, None)
        if session is not None and session.watch is not None:
            session.watch.cancel()
        return session

    async def _give_up(self, path: str) -> None:
        session = self._end(path)
        if session is not None:
            with contextlib.suppress(errors.PublicError):
                await session.sink.abort()


class BucketSink:
    """An upload into a bucket; it takes the place of the object that was there when it began, or of none."""

    def __init__(self, owner: tree.Tree, place: paths.KeyPlace, path: str, writer: s3_multipart.Writer) -> None:
        """Keep the writer."""
        self._owner = owner
        self._place = place
        self._path = path
        self._writer = writer

    @classmethod
    async def open(cls, owner: tree.Tree, place: paths.KeyPlace, path: str) -> BucketSink:
        """Look at what is there; nothing is written.

        Raises:
            NotPermittedError: If the bucket may only be read.
        """
        files = await owner.bucket_files(place.bucket)
        files.check_writable(place.key, path)
        await files.client.refuse_folded(place.bucket, place.key)
        looked, meta = owner.seen.take_look(place)
        if not looked:
            meta = await files.look(place)
        writer = s3_multipart.Writer(
            files.client,
            place.bucket,
            place.key,
            content_type=models.content_type(place.name),
            if_match=meta.etag if meta else None,
            if_absent=meta is None,
        )
        return cls(owner, place, path, writer)

    @property
    def size(self) -> int:
        """Bytes taken so far."""
        return self._writer.size

    async def write(self, data: bytes) -> None:
        """Take the next bytes."""
        await self._writer.write(data)

    async def publish(self) -> models.Model:
        """Let the object be seen.

        Raises:
            ConflictError: If the object changed since the upload began.
        """
        try:
            meta: s3.Meta = await self._writer.finish()
        except errors.ConflictError as exc:
            self._owner.seen.forget(self._place)
            msg = f"{self._path!r} was not uploaded: the file changed while it was on its way. Upload it again."
            raise errors.ConflictError(msg) from exc
        self._owner.seen.wrote(self._place, meta)
        return models.file(self._path, "file", meta, writable=True)

    async def abort(self) -> None:
        """Remove the parts."""
        await self._writer.abort()


class HomeSink:
    """An upload into the home, by a hidden file beside the target."""

    def __init__(self, owner: tree.Tree, place: paths.HomePlace, path: str, spool: disk.Spool) -> None:
        """Keep the hidden file."""
        self._owner = owner
        self._place = place
        self._path = path
        self._spool = spool

    @classmethod
    async def open(cls, owner: tree.Tree, place: paths.HomePlace, path: str) -> HomeSink:
        """Open the hidden file.

        Raises:
            InvalidInputError: If a folder has the name.
        """
        target = pathlib.Path(owner.home.os_path(place.path))
        if await asyncio.to_thread(target.is_dir):
            msg = f"{path!r} was not uploaded: a folder has this name; choose another one."
            raise errors.InvalidInputError(msg)
        with disk.told(path):
            return cls(owner, place, path, disk.Spool(target))

    @property
    def size(self) -> int:
        """Bytes taken so far."""
        return self._spool.size

    async def write(self, data: bytes) -> None:
        """Append to the hidden file."""
        with disk.told(self._path):
            await asyncio.to_thread(self._spool.write, data)

    async def publish(self) -> models.Model:
        """Give the file its name, in the place of the old one."""
        with disk.told(self._path):
            await asyncio.to_thread(self._spool.publish, replace=True)
        found: models.Model = await self._owner.get(self._path, content=False, type="file")
        self._owner.run_post_save_hooks(model=found, os_path=self._owner.home.os_path(self._place.path))
        return found

    async def abort(self) -> None:
        """Remove the hidden file."""
        await asyncio.to_thread(self._spool.discard)


def _unfinished(path: str, size: int) -> models.Model:
    now = datetime.datetime.now(datetime.UTC)
    return {
        "name": paths.name(path),
        "path": path,
        "type": "file",
        "writable": True,
        "created": now,
        "last_modified": now,
        "mimetype": mimetypes.guess_type(paths.name(path))[0],
        "content": None,
        "format": None,
        "size": size,
        "hash": None,
        "hash_algorithm": None,
    }
