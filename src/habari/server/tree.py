"""Home and buckets in one file tree: the contents manager of the user's server.

Each method finds out what its path names and hands over: to `home.Home` for files on disk, to
`bucket.BucketFiles` for objects, to `transfers` where something moves. Buckets are looked up at each call,
so a server starts whether or not its store answers, and a new grant shows at once.
"""

# mypy: allow-untyped-calls
# Jupyter's managers and nbformat have no types.

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import traitlets
from jupyter_server.services.contents import manager
from tornado import web

from habari.core import errors, model
from habari.server import (
    bucket,
    buckets,
    checkpoints,
    failures,
    files,
    home,
    models,
    paths,
    s3,
    seen,
    transfers,
    uploads,
)


class Tree(manager.AsyncContentsManager):
    """Jupyter's contents manager over the home and the user's buckets.

    Set `bucket_source_factory`, and the tree has a folder `buckets`; without it, it is the home alone.
    """

    root_dir = traitlets.Unicode(
        help="Folder on disk that is the root of the tree. Default: the server's root_dir."
    ).tag(config=True)
    bucket_source_factory = traitlets.Any(
        default_value=None,
        help="Callable without arguments that returns a `habari.server.buckets.BucketSource`. Default: no buckets.",
    ).tag(config=True)
    always_delete_dir = traitlets.Bool(
        default_value=True,
        help="Delete folders of a bucket with all that is in them; the file browser asks before. Default: True.",
    ).tag(config=True)
    upload_timeout_s = traitlets.Float(
        default_value=120.0,
        help="Seconds without a further piece after which an upload is given up. Default: 120.",
    ).tag(config=True)
    checkpoints_dir = traitlets.Unicode(
        help="Folder on disk for checkpoints of objects. Default: habari/checkpoints in Jupyter's data folder."
    ).tag(config=True)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Make the parts; nothing is sent and nothing is read."""
        super().__init__(*args, **kwargs)
        self.home = home.Home(parent=self)
        self.seen = seen.Seen()
        self._pool = s3.Pool()
        self._clients: dict[buckets.Store, s3.Client] = {}
        source: Callable[[], buckets.BucketSource] | None = self.bucket_source_factory
        self.roots = buckets.Roots(source()) if source is not None else None
        self.uploads = uploads.Uploads(self)

    @traitlets.default("root_dir")
    def _root_dir_of_the_server(self) -> str:
        return str(getattr(self.parent, "root_dir", "") or ".")

    @traitlets.default("checkpoints_class")
    def _checkpoints_class_of_the_tree(self) -> type[checkpoints.TreeCheckpoints]:
        return checkpoints.TreeCheckpoints

    @traitlets.default("checkpoints_dir")
    def _checkpoints_in_the_data_folder(self) -> str:
        return checkpoints.default_dir()

    @traitlets.default("files_handler_class")
    def _files_handler_of_the_tree(self) -> type[files.FilesHandler]:
        return files.FilesHandler

    @traitlets.validate("preferred_dir")
    def _take_preferred_dir(self, proposal: dict[str, Any]) -> str:
        """Take a folder of a bucket as it is: asking the store here would keep the server from starting."""
        return str(proposal["value"]).strip("/")

    async def close(self) -> None:
        """Give up unfinished uploads and close the connections to the stores."""
        await self.uploads.close()
        if self.roots is not None:
            await self.roots.close()
        await self._pool.close()

    async def bucket_files(self, name: str) -> bucket.BucketFiles:
        """Return one bucket.

        Raises:
            NotFoundError: If the user has no bucket of that name.
        """
        if self.roots is None:
            msg = f"No bucket {name!r}: this server was started without buckets."
            raise errors.NotFoundError(msg)
        found = await self.roots.get(name)
        return bucket.BucketFiles(found, self._client(found.store), self.seen, self)

    def _client(self, store: buckets.Store) -> s3.Client:
        if store not in self._clients:
            self._clients[store] = s3.Client(store, self._pool)
        return self._clients[store]

    # Looking

    @failures.mapped
    async def get(
        self,
        path: str,
        content: bool = True,  # noqa: FBT001, FBT002 - Jupyter's signature
        type: str | None = None,  # noqa: A002 - Jupyter's signature
        format: str | None = None,  # noqa: A002 - Jupyter's signature
        require_hash: bool = False,  # noqa: FBT001, FBT002 - Jupyter's signature
    ) -> models.Model:
        """Return the model of a file or folder; the type that is asked for decides what is looked for."""
        path = path.strip("/")
        place = paths.parse(path)
        if isinstance(place, paths.HomePlace):
            found = await self.home.get(
                place.path, content=content, type=type, format=format, require_hash=require_hash
            )
            return self._shown(found, with_buckets=not place.path)
        if isinstance(place, paths.BucketsPlace):
            _expect_folder(path, type)
            return await self._buckets_model(path, content=content)
        files_ = await self.bucket_files(place.bucket)
        found = await self._get_in_bucket(files_, place, path, content=content, wanted=type, content_format=format)
        self.emit({"action": "get", "path": path})
        return found

    async def _get_in_bucket(  # noqa: PLR0913 - Jupyter's arguments
        self,
        files_: bucket.BucketFiles,
        place: paths.KeyPlace,
        path: str,
        *,
        content: bool,
        wanted: str | None,
        content_format: str | None,
    ) -> models.Model:
        if place.folder:
            _expect_folder(path, wanted)
        if wanted == "directory" or place.folder:
            return await files_.folder_model(place, path, content=content)
        kind = models.kind_of(path, wanted)
        try:
            return await files_.file_model(place, path, kind=kind, content=content, content_format=content_format)
        except errors.NotFoundError as exc:
            if exc.code == "NoSuchBucket":
                raise
            if wanted is None:
                return await files_.folder_model(place, path, content=content)
            if await files_.is_folder(place):
                _expect_folder(path, wanted)
            raise

    async def _buckets_model(self, path: str, *, content: bool) -> models.Model:
        if not content:
            return models.folder(path, writable=False)
        found = await self.roots.all() if self.roots is not None else {}
        entries = [
            models.folder_entry(path, paths.encode(name), writable=each.view.access is model.Access.WRITE)
            for name, each in found.items()
        ]
        return models.folder(path, writable=False, content=entries)

    def _shown(self, found: models.Model, *, with_buckets: bool = False) -> models.Model:
        """Give a model of the home, and its entries, the paths of the tree."""
        entries = found["content"] if found["type"] == "directory" and found["content"] is not None else []
        for each in (found, *entries):
            each["path"] = paths.unparse(paths.HomePlace(each["path"].strip("/")))
            each["name"] = paths.name(each["path"])
        if with_buckets and self.roots is not None and found["content"] is not None:
            entries.append(models.folder_entry("", paths.BUCKETS, writable=False) | {"path": paths.BUCKETS})
        return found

    @failures.mapped
    async def file_exists(self, path: str) -> bool:
        """Return whether a file is there; Jupyter's handler asks this before each save."""
        place = paths.parse(path)
        if isinstance(place, paths.HomePlace):
            return self.uploads.is_open(path) or bool(await self.home.file_exists(place.path))
        if isinstance(place, paths.BucketsPlace) or place.folder:
            return False
        if self.uploads.is_open(path) or self.seen.etag(place) is not None:
            return True
        meta = await (await self.bucket_files(place.bucket)).look(place)
        self.seen.looked(place, meta)
        return meta is not None

    @failures.mapped
    async def dir_exists(self, path: str) -> bool:
        """Return whether a folder is there."""
        place = paths.parse(path)
        if isinstance(place, paths.HomePlace):
            return bool(await self.home.dir_exists(place.path))
        if isinstance(place, paths.BucketsPlace):
            return self.roots is not None
        try:
            return await (await self.bucket_files(place.bucket)).is_folder(place)
        except errors.NotFoundError:
            return False

    @failures.mapped
    async def exists(self, path: str) -> bool:
        """Return whether a file or folder is there, by asking; what was told before does not count."""
        place = paths.parse(path)
        if isinstance(place, paths.HomePlace):
            return bool(self.home.exists(place.path))
        if isinstance(place, paths.BucketsPlace):
            return self.roots is not None
        files_ = await self.bucket_files(place.bucket)
        if not place.folder:
            meta = await files_.look(place)
            self.seen.looked(place, meta)
            if meta is not None:
                return True
        return await files_.is_folder(place)

    @failures.mapped
    async def is_hidden(self, path: str) -> bool:
        """Return whether Jupyter hides a file of the home; every key of a bucket is shown."""
        place = paths.parse(path)
        return bool(await self.home.is_hidden(place.path)) if isinstance(place, paths.HomePlace) else False

    async def resolve_path(self, path: str) -> str | None:
        """Return the path of the tree for a path on disk."""
        found = self.home.resolve_path(path)
        return None if found is None else paths.unparse(paths.HomePlace(found))

    def get_kernel_path(self, path: str, model: Any = None) -> Any:
        """Return the folder of the home in which the kernel of a document works: the home itself for a bucket's."""
        try:
            place = paths.parse(path)
        except errors.InvalidInputError:
            return ""
        return self.home.get_kernel_path(place.path, model) if isinstance(place, paths.HomePlace) else ""

    # Writing

    @failures.mapped
    async def new_untitled(self, path: str = "", type: str = "", ext: str = "") -> models.Model:  # noqa: A002 - Jupyter's name
        """Make a file, notebook or folder with the next free name in a folder."""
        if isinstance(paths.parse(path.strip("/")), paths.BucketsPlace):
            name = f"{path.strip('/')}/untitled"
            raise transfers.no_bucket_here(name)
        made: models.Model = await super().new_untitled(path, type, ext)
        return made

    @failures.mapped
    async def save(self, model: dict[str, Any], path: str = "") -> models.Model:
        """Write a file, notebook or folder, or take the next piece of an upload; nothing is overwritten unseen."""
        path = path.strip("/")
        place = paths.parse(path)
        _check(model, path)
        if model.get("chunk") is not None:
            return await self.uploads.take(model, place, path)
        if isinstance(place, paths.HomePlace):
            _refuse_root(place.path, path)
            return self._shown(await self.home.save(model, place.path))
        if isinstance(place, paths.BucketsPlace) or place.is_root:
            raise transfers.no_bucket_here(path)
        self.run_pre_save_hooks(model=model, path=path)
        files_ = await self.bucket_files(place.bucket)
        saved = await files_.save(model, place, path)
        self.emit({"action": "save", "path": path})
        return saved

    @failures.mapped
    async def delete_file(self, path: str) -> None:
        """Delete a file, or a folder with all that is in it; deleting `a` never touches `a/`."""
        path = path.strip("/")
        place = paths.parse(path)
        if isinstance(place, paths.HomePlace):
            await self.home.delete_file(place.path)
        elif isinstance(place, paths.BucketsPlace) or place.is_root:
            raise transfers.no_bucket_here(path)
        else:
            await transfers.delete(
                await self.bucket_files(place.bucket), place, path, with_contents=self.always_delete_dir
            )

    @failures.mapped
    async def rename_file(self, old_path: str, new_path: str) -> None:
        """Move a file or folder; the source is deleted after all of it was verified at its new place."""
        await transfers.rename(self, old_path.strip("/"), new_path.strip("/"))

    async def rename(self, old_path: str, new_path: str) -> None:
        """Move a file or folder with its checkpoints; a checkpoint that cannot follow is logged, the move stands."""
        await self.rename_file(old_path, new_path)
        try:
            await self.checkpoints.rename_all_checkpoints(old_path, new_path)
        except (OSError, web.HTTPError, errors.PublicError):
            self.log.exception("The checkpoints of %s did not follow it to %s", old_path, new_path)
        self.emit({"action": "rename", "path": new_path, "source_path": old_path})

    async def delete(self, path: str) -> None:
        """Delete a file or folder with its checkpoints; a checkpoint that cannot be deleted is logged."""
        if not path.strip("/"):
            raise failures.of(errors.InvalidInputError("The root of the tree cannot be deleted; choose what is in it."))
        await self.delete_file(path)
        try:
            await self.checkpoints.delete_all_checkpoints(path)
        except (OSError, web.HTTPError, errors.PublicError):
            self.log.exception("The checkpoints of %s were not deleted", path)
        self.emit({"action": "delete", "path": path})

    def info_string(self) -> str:
        """Return what the server prints at its start."""
        return f"Serving the home {self.root_dir} and the buckets of its user"

    @failures.mapped
    async def copy(self, from_path: str, to_path: str | None = None) -> models.Model:
        """Copy a file or folder, beside itself or into a folder; inside a store no byte passes through here."""
        copied = await transfers.copy(self, from_path.strip("/"), None if to_path is None else to_path.strip("/"))
        self.emit({"action": "copy", "path": copied, "source_path": from_path})
        return await self.get(copied, content=False)


def _check(model: dict[str, Any], path: str) -> None:
    if model.get("type") not in {"file", "notebook", "directory"}:
        msg = (
            f"{path!r} was not saved: expected the type 'file', 'notebook' or 'directory', found {model.get('type')!r}."
        )
        raise errors.InvalidInputError(msg)
    if "content" not in model and model["type"] != "directory":
        msg = f"{path!r} was not saved: the request has no content."
        raise errors.InvalidInputError(msg)


def _expect_folder(path: str, wanted: str | None) -> None:
    if wanted not in {None, "directory"}:
        msg = f"{path!r} is a folder, not a {wanted}."
        raise errors.InvalidInputError(msg)


def _refuse_root(home_path: str, path: str) -> None:
    if not home_path:
        msg = f"{path!r} cannot be written: it is the root of the tree."
        raise errors.InvalidInputError(msg)
