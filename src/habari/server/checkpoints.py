"""Checkpoints: of files in the home beside them, as Jupyter keeps them; of objects in the user's own data folder.

Nothing is written to a bucket unasked. A checkpoint is one file with the object's bytes and one that says
of which object they are; a restore writes them back, or fails and says so.
"""

# mypy: allow-untyped-calls
# Jupyter's managers and nbformat have no types.

from __future__ import annotations

import asyncio
import contextlib
import datetime
import hashlib
import json
import pathlib
from typing import TYPE_CHECKING, Any, TypedDict, cast

from jupyter_core import paths as jupyter_paths
from jupyter_server.services.contents import checkpoints, filecheckpoints

from habari.core import errors
from habari.server import disk, failures, paths

if TYPE_CHECKING:
    from habari.server import tree

_ID = "checkpoint"


class Checkpoint(TypedDict):
    """What Jupyter says of a checkpoint."""

    id: str
    last_modified: datetime.datetime


def default_dir() -> str:
    """Return the folder for checkpoints of files in buckets."""
    return str(pathlib.Path(jupyter_paths.jupyter_data_dir(), "habari", "checkpoints"))


class TreeCheckpoints(checkpoints.AsyncCheckpoints):
    """One checkpoint a file, in home and buckets."""

    parent: tree.Tree

    @failures.mapped
    async def create_checkpoint(self, contents_mgr: Any, path: str) -> Checkpoint:
        """Keep the file as it is now; replaces the checkpoint before."""
        del contents_mgr
        place = paths.parse(path)
        if isinstance(place, paths.HomePlace):
            found: Checkpoint = await self.parent.home.create_checkpoint(place.path)
            return found
        kept = self._kept(place, path)
        files = await self.parent.bucket_files(kept.place.bucket)
        if await asyncio.to_thread(kept.etag) != (self.parent.seen.etag(kept.place) or object()):
            async with files.client.open(files.name, kept.place.key) as response:
                etag = response.headers.get("ETag", "").strip('"')
                await kept.write(files.client.chunks(response), etag)
        return await asyncio.to_thread(kept.model)

    @failures.mapped
    async def restore_checkpoint(self, contents_mgr: Any, checkpoint_id: str, path: str) -> None:
        """Write the checkpoint back.

        Raises:
            HTTPError: If there is none, or the file changed since it was last opened.
        """
        del contents_mgr
        place = paths.parse(path)
        if isinstance(place, paths.HomePlace):
            self._check_home(checkpoint_id, place.path, path)
            await self.parent.home.restore_checkpoint(checkpoint_id, place.path)
            return
        kept = self._kept(place, path)
        body = await asyncio.to_thread(kept.read, checkpoint_id)
        files = await self.parent.bucket_files(kept.place.bucket)
        files.check_writable(kept.place.key, path)
        await files.write(kept.place, path, body)

    @failures.mapped
    async def rename_checkpoint(self, checkpoint_id: str, old_path: str, new_path: str) -> None:
        """Carry a checkpoint to a file's new path, from home to bucket and back too."""
        old, new = paths.parse(old_path), paths.parse(new_path)
        if isinstance(old, paths.HomePlace) and isinstance(new, paths.HomePlace):
            await self.parent.home.checkpoints.rename_checkpoint(checkpoint_id, old.path, new.path)
            return
        await asyncio.to_thread(self._carry, old, new, old_path, new_path)

    @failures.mapped
    async def delete_checkpoint(self, checkpoint_id: str, path: str) -> None:
        """Delete a checkpoint."""
        place = paths.parse(path)
        if isinstance(place, paths.HomePlace):
            await self.parent.home.checkpoints.delete_checkpoint(checkpoint_id, place.path)
            return
        kept = self._kept(place, path)
        await asyncio.to_thread(kept.read, checkpoint_id)
        await asyncio.to_thread(kept.delete)

    @failures.mapped
    async def list_checkpoints(self, path: str) -> list[Checkpoint]:
        """Return the checkpoint of a file, if it has one."""
        place = paths.parse(path)
        if isinstance(place, paths.HomePlace):
            found: list[Checkpoint] = await self.parent.home.checkpoints.list_checkpoints(place.path)
            return found
        if isinstance(place, paths.BucketsPlace) or place.folder:
            return []
        kept = self._kept(place, path)
        return [await asyncio.to_thread(kept.model)] if await asyncio.to_thread(kept.exists) else []

    async def rename_all_checkpoints(self, old_path: str, new_path: str) -> None:
        """Carry the checkpoints of a file, or of all files in a folder."""
        await super().rename_all_checkpoints(old_path, new_path)
        old, new = paths.parse(old_path), paths.parse(new_path)
        if isinstance(old, paths.KeyPlace):
            await asyncio.to_thread(self._carry_folder, old, new)

    async def delete_all_checkpoints(self, path: str) -> None:
        """Delete the checkpoints of a file, or of all files in a folder that is gone."""
        await super().delete_all_checkpoints(path)
        place = paths.parse(path)
        below = await asyncio.to_thread(self._below, place) if isinstance(place, paths.KeyPlace) else []
        if below and not await self.parent.dir_exists(path):
            for kept in below:
                await asyncio.to_thread(kept.delete)

    def _kept(self, place: paths.Place, path: str) -> _Kept:
        if not isinstance(place, paths.KeyPlace) or place.folder:
            msg = f"{path!r} is a folder and has no checkpoints."
            raise errors.InvalidInputError(msg)
        return _Kept(pathlib.Path(self.parent.checkpoints_dir), place, path)

    def _home_file(self, checkpoint_id: str, home_path: str) -> pathlib.Path:
        files = cast("filecheckpoints.AsyncFileCheckpoints", self.parent.home.checkpoints)
        return pathlib.Path(files.checkpoint_path(checkpoint_id, home_path))

    def _check_home(self, checkpoint_id: str, home_path: str, path: str) -> None:
        if not self._home_file(checkpoint_id, home_path).is_file():
            raise _none(path)

    def _carry(self, old: paths.Place, new: paths.Place, old_path: str, new_path: str) -> None:
        if isinstance(old, paths.HomePlace):
            source = self._home_file(_ID, old.path)
            self._kept(new, new_path).take(source.read_bytes(), "")
            source.unlink()
            return
        kept = self._kept(old, old_path)
        if isinstance(new, paths.HomePlace):
            self._home_file(_ID, new.path).write_bytes(kept.read(_ID))
        else:
            self._kept(new, new_path).take(kept.read(_ID), kept.etag() or "")
        kept.delete()

    def _carry_folder(self, old: paths.KeyPlace, new: paths.Place) -> None:
        for kept in self._below(old):
            relative = kept.place.key[len(old.prefix) :]
            if isinstance(new, paths.KeyPlace):
                to: paths.Place = paths.KeyPlace(new.bucket, f"{new.key}/{relative}")
            elif isinstance(new, paths.HomePlace):
                to = paths.HomePlace(f"{new.path}/{relative}")
            else:
                continue
            self._carry(kept.place, to, paths.unparse(kept.place), paths.unparse(to))

    def _below(self, place: paths.KeyPlace) -> list[_Kept]:
        return _Kept.below(pathlib.Path(self.parent.checkpoints_dir), place)


class _Kept:
    """The checkpoint of one object on disk: `HASH` holds its bytes, `HASH.json` says whose they are."""

    def __init__(self, root: pathlib.Path, place: paths.KeyPlace, path: str) -> None:
        self.place = place
        self._path = path
        digest = hashlib.sha256(place.key.encode("utf-8", "surrogateescape")).hexdigest()
        self._data = root / place.bucket / digest
        self._about = self._data.with_suffix(".json")

    @classmethod
    def below(cls, root: pathlib.Path, place: paths.KeyPlace) -> list[_Kept]:
        """Return the checkpoints of all objects in a folder."""
        found = []
        for about in (root / place.bucket).glob("*.json"):
            with contextlib.suppress(OSError, ValueError, KeyError):
                key = json.loads(about.read_text())["key"]
                if key.startswith(place.prefix):
                    each = paths.KeyPlace(place.bucket, key)
                    found.append(cls(root, each, paths.unparse(each)))
        return found

    def exists(self) -> bool:
        return self._data.is_file() and self._about.is_file()

    def etag(self) -> str | None:
        """Return the ETag of the version kept."""
        try:
            return str(json.loads(self._about.read_text())["etag"]) if self._data.is_file() else None
        except (OSError, ValueError, KeyError):
            return None

    def model(self) -> Checkpoint:
        moment = self._about.stat().st_mtime
        return {"id": _ID, "last_modified": datetime.datetime.fromtimestamp(moment, datetime.UTC)}

    def read(self, checkpoint_id: str) -> bytes:
        if checkpoint_id != _ID or not self.exists():
            raise _none(self._path)
        return self._data.read_bytes()

    def take(self, body: bytes, etag: str) -> None:
        spool = self._open()
        try:
            spool.write(body)
            spool.publish(replace=True)
        finally:
            spool.discard()
        self._note(etag)

    async def write(self, chunks: Any, etag: str) -> None:
        with disk.told(self._path):
            spool = self._open()
            try:
                async for chunk in chunks:
                    await asyncio.to_thread(spool.write, chunk)
                await asyncio.to_thread(spool.publish, replace=True)
            finally:
                await asyncio.to_thread(spool.discard)
            await asyncio.to_thread(self._note, etag)

    def delete(self) -> None:
        self._about.unlink(missing_ok=True)
        self._data.unlink(missing_ok=True)

    def _open(self) -> disk.Spool:
        self._data.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return disk.Spool(self._data, mode=0o600)

    def _note(self, etag: str) -> None:
        about = json.dumps({"bucket": self.place.bucket, "key": self.place.key, "etag": etag})
        hidden = self._about.with_suffix(".new")
        hidden.touch(mode=0o600)
        hidden.write_text(about)
        hidden.replace(self._about)


def _none(path: str) -> errors.NotFoundError:
    return errors.NotFoundError(f"{path!r} was not restored: there is no such checkpoint of it.")
