"""Files and folders of one bucket as Jupyter's contents models; the tree makes one of these for each look.

One request for a file, one for each thousand entries of a folder: the type in the request decides, and
nothing is asked that is not needed. Every write is conditional on what the user was last told (`seen`).
"""

# mypy: allow-untyped-calls
# Jupyter's managers and nbformat have no types.

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterator
from typing import Any, Protocol

import nbformat

from habari.core import errors
from habari.server import buckets, models, paths, s3, s3_xml, seen


class Hooks(Protocol):
    """What Jupyter's manager does with notebooks: trust by this user's own signatures, and validation."""

    def mark_trusted_cells(self, nb: Any, path: str = "") -> None:
        """Mark the cells as trusted if this user signed the notebook."""

    def check_and_sign(self, nb: Any, path: str = "") -> None:
        """Sign the notebook if this user trusts all its cells."""

    def validate_notebook_model(self, model: Any, validation_error: Any = None) -> Any:
        """Add a message to the model if the notebook is not valid."""


@dataclasses.dataclass(frozen=True)
class BucketFiles:
    """One bucket.

    Attributes:
        bucket: The bucket, and whether it may be written.
        client: Carries the requests.
        seen: What the user was told.
        hooks: Trust and validation of notebooks.
    """

    bucket: buckets.Bucket
    client: s3.Client
    seen: seen.Seen
    hooks: Hooks

    @property
    def name(self) -> str:
        """The bucket's name."""
        return self.bucket.view.name

    async def look(self, place: paths.KeyPlace) -> s3.Meta | None:
        """Return what the store says of the object of that very key, None if there is none."""
        if place.folder or not place.key:
            return None
        try:
            return await self.client.head(self.name, place.key)
        except errors.NotFoundError as exc:
            if exc.code == "NoSuchBucket":
                raise
            return None

    async def is_folder(self, place: paths.KeyPlace) -> bool:
        """Return whether any key lies in the folder, or a grant begins inside it."""
        if place.is_root or self._is_granted(place.prefix):
            return True
        page = s3_xml.parse_page(
            await self.client.list_page(self.name, place.prefix, delimiter="", limit=1), place.prefix
        )
        return bool(page.objects) or await self.is_kept_folder(place.prefix)

    async def is_kept_folder(self, prefix: str) -> bool:
        """Return whether the store keeps a folder in which nothing is; others have no such folders."""
        if not self.client.is_file_system:
            return False
        return await self.look(paths.KeyPlace(self.name, prefix)) is not None

    async def folder_model(self, place: paths.KeyPlace, path: str, *, content: bool) -> models.Model:
        """Return a folder.

        Raises:
            NotFoundError: If there is no such folder.
        """
        writable = self.bucket.may_write(place.prefix)
        if not content:
            if not await self.is_folder(place):
                raise _missing(path)
            return models.folder(path, writable=writable)
        entries, exists = await self._entries(place, path)
        if not (entries or exists or place.is_root or await self.is_kept_folder(place.prefix)):
            raise _missing(path)
        return models.folder(path, writable=writable, content=entries)

    async def file_model(
        self, place: paths.KeyPlace, path: str, *, kind: str, content: bool, content_format: str | None
    ) -> models.Model:
        """Return an object as a file or notebook, and remember the version told.

        Raises:
            NotFoundError: If there is no such object.
            InvalidInputError: If its content is not what is wanted.
        """
        writable = self.bucket.may_write(place.key)
        if not content:
            meta = self.seen.recent(place) or await self._meta(place)
            self.seen.told(place, meta)
            return models.file(path, kind, meta, writable=writable)
        try:
            meta, body = await self.client.get(self.name, place.key)
        except errors.NotFoundError:
            self.seen.forget(place)
            raise
        model = models.file(path, kind, meta, writable=writable)
        if kind == "notebook":
            notebook, found = await asyncio.to_thread(models.read_notebook, body, repr(path))
            self.hooks.mark_trusted_cells(notebook, path)
            model |= {"content": notebook, "format": "json"}
            self.hooks.validate_notebook_model(model, found)
        else:
            text, used = await asyncio.to_thread(models.decode, body, content_format, repr(path))
            plain = "text/plain" if used == "text" else "application/octet-stream"
            model |= {"content": text, "format": used, "mimetype": model["mimetype"] or plain}
        self.seen.told(place, meta)
        return model

    async def save(self, model: dict[str, Any], place: paths.KeyPlace, path: str) -> models.Model:
        """Write a file, notebook or folder, and return its model without content.

        Raises:
            ConflictError: If the object is not the one that the user was last told; nothing is written then.
            NotPermittedError: If the bucket may only be read.
        """
        self.check_writable(place.prefix if model["type"] == "directory" else place.key, path)
        if model["type"] == "directory":
            return await self._make_folder(place, path)
        if place.folder:
            msg = f"{path!r} names a folder; choose another name to save a {model['type']}."
            raise errors.InvalidInputError(msg)
        found: dict[str, Any] = {}
        if model["type"] == "notebook":
            if not isinstance(model["content"], dict):
                msg = f"{path!r} was not saved: a notebook's content is a mapping, found {model['content']!r:.40}."
                raise errors.InvalidInputError(msg)
            notebook = nbformat.from_dict(model["content"])
            self.hooks.check_and_sign(notebook, path)
            body, found = await asyncio.to_thread(models.write_notebook, notebook)
        else:
            body = await asyncio.to_thread(models.encode, model["content"], model.get("format"), repr(path))
        meta = await self.write(place, path, body)
        saved = models.file(path, model["type"], meta, writable=True)
        if model["type"] == "notebook":
            self.hooks.validate_notebook_model(model, found)
            if message := model.get("message"):
                saved["message"] = message
        return saved

    async def write(self, place: paths.KeyPlace, path: str, body: bytes) -> s3.Meta:
        """Write an object over the version last told, or where none is."""
        etag, absent = await self.base(place)
        kind = models.content_type(place.name)
        try:
            meta = await self.client.put(self.name, place.key, body, content_type=kind, if_match=etag, if_absent=absent)
        except errors.ConflictError as exc:
            if absent and await self.is_folder(dataclasses.replace(place, folder=True)):
                msg = f"{path!r} was not saved: the store of bucket {self.name!r} has a folder of this name."
                raise errors.ConflictError(msg) from exc
            raise self.conflict(place, path, exc, new=absent) from exc
        self.seen.wrote(place, meta)
        return meta

    async def make_marker(self, prefix: str) -> None:
        """Write the empty object that stands for an empty folder."""
        await self.client.put(self.name, prefix, b"", content_type="application/x-directory")

    async def base(self, place: paths.KeyPlace) -> tuple[str | None, bool]:
        """Return the condition of the next write: the ETag to replace, or None and that nothing may be there."""
        etag = self.seen.etag(place)
        if etag is not None:
            return etag, False
        looked, meta = self.seen.take_look(place)
        if not looked:
            meta = await self.look(place)
        return (None, True) if meta is None else (meta.etag, False)

    def conflict(self, place: paths.KeyPlace, path: str, exc: errors.PublicError, *, new: bool) -> errors.PublicError:
        """Return the error for a lost race, after which the next save starts from what is there now."""
        self.seen.forget(place)
        if new:
            msg = f"{path!r} was not saved: somebody made a file of this name a moment ago; save again to see it."
        else:
            msg = (
                f"{path!r} was not saved: it was changed or deleted in bucket {self.name!r} after you opened it. "
                "Nothing was overwritten; save again to choose between the two versions."
            )
        error = errors.ConflictError(msg)
        error.code = exc.code
        return error

    def check_writable(self, key: str, path: str) -> None:
        """Refuse to write where the grants only let the user read.

        Raises:
            NotPermittedError: With a sentence that says who may change that.
        """
        if not self.bucket.may_write(key):
            msg = f"You may only read {path!r}; ask the owner of bucket {self.name!r} for the right to write there."
            raise errors.NotPermittedError(msg)

    async def _meta(self, place: paths.KeyPlace) -> s3.Meta:
        try:
            return await self.client.head(self.name, place.key)
        except errors.NotFoundError:
            self.seen.forget(place)
            raise

    async def _make_folder(self, place: paths.KeyPlace, path: str) -> models.Model:
        if not await self.is_folder(place):
            if await self.look(dataclasses.replace(place, folder=False)) is not None:
                msg = f"The folder {path!r} was not made: a file has this name; choose another one."
                raise errors.ConflictError(msg)
            await self.make_marker(place.prefix)
        return models.folder(path, writable=True)

    async def _entries(self, place: paths.KeyPlace, path: str) -> tuple[list[models.Model], bool]:
        objects: list[s3_xml.Entry] = []
        folders: dict[str, None] = {}
        exists = self._is_granted(place.prefix)
        for prefix in self._granted_inside(place.prefix):
            below = prefix[len(place.prefix) :]
            if "/" in below:
                folders[below.partition("/")[0]] = None
        for prefix in self._listed(place.prefix):
            async for page in self.client.list(self.name, prefix):
                exists = exists or bool(page.objects or page.prefixes)
                objects += page.objects
                folders |= dict.fromkeys(each[len(place.prefix) : -1] for each in page.prefixes)
        return list(self._shown(place, path, objects, folders)), exists

    def _shown(
        self, place: paths.KeyPlace, path: str, objects: list[s3_xml.Entry], folders: dict[str, None]
    ) -> Iterator[models.Model]:
        start = len(place.prefix)
        whole = not self.bucket.view.prefixes
        writable = self.bucket.may_write(place.prefix)
        names = {entry.key[start:] for entry in objects}
        for folder in folders:
            may = writable if whole else self.bucket.may_write(f"{place.prefix}{folder}/")
            shown = paths.shown(folder, is_folder=True, has_twin=folder in names)
            yield models.folder_entry(path, shown, writable=may)
        for entry in objects:
            name = entry.key[start:]
            if not name and entry.size == 0:
                continue  # the marker of the folder itself
            may = writable if whole else self.bucket.may_write(entry.key)
            yield models.file_entry(path, paths.shown(name, is_folder=False), entry, writable=may)

    def _is_granted(self, prefix: str) -> bool:
        return any(each.startswith(prefix) for each in self.bucket.view.prefixes)

    def _granted_inside(self, prefix: str) -> list[str]:
        return [each for each in self.bucket.view.prefixes if each.startswith(prefix) and each != prefix]

    def _listed(self, prefix: str) -> list[str]:
        """Return the prefixes to list for a folder: itself, or the beginnings of names that were granted in it."""
        granted = self.bucket.view.prefixes
        if not granted or any(prefix.startswith(each) for each in granted):
            return [prefix]
        return [each for each in self._granted_inside(prefix) if "/" not in each[len(prefix) :]]


def _missing(path: str) -> errors.NotFoundError:
    return errors.NotFoundError(f"No such file or folder: {path!r}; look at the folder above it again.")
